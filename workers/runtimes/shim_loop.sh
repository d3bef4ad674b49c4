# Runs one command line after the other in a container that stays. $1 marks our own lines.
#
# Each message: the mark of its answer, seconds, order, attempt, then the argument list, a line for each piece:
# "a" begins an argument, "c" continues it behind a newline, "." ends the list. Nothing of it is evaluated.
limit=
command -v timeout >/dev/null && limit=yes
printf '\n%s ready\n' "$1"
while IFS= read -r mark && IFS= read -r seconds && IFS= read -r order && IFS= read -r attempt; do
  set --
  begun= word=
  while IFS= read -r line; do
    case $line in
    a*) [ -z "$begun" ] || set -- "$@" "$word"; begun=yes word=${line#a} ;;
    c*) word="$word
${line#c}" ;;
    *) break ;;
    esac
  done
  set -- "$@" "$word"
  status=0
  (
    export DYNSVC_ORDER="$order" DYNSVC_ATTEMPT="$attempt"
    # Ends the program also where our worker is gone; the worker itself is quicker.
    [ -z "$limit" ] || set -- timeout -s KILL "$seconds" "$@"
    exec "$@"
  ) </dev/null 2>&1 || status=$?
  # What it left running ends now, before its answer: all processes but the init and this shell.
  tries=0
  while kill -s KILL -- -1 2>/dev/null; set -- /proc/[0-9]*; [ $# -gt 2 ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 2000 ] || exit 70
  done
  for left in /tmp/* /tmp/.[!.]* /tmp/..?*; do
    if [ -e "$left" ] || [ -L "$left" ]; then
      rm -rf /tmp/* /tmp/.[!.]* /tmp/..?*
      break
    fi
  done
  printf '\n%s %s\n' "$mark" "$status"
done
