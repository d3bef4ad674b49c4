/* The smallest algorithm: waits for so many milliseconds and copies a ready zip. copy READY MS RESULT */
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int main(int count, char **words) {
    static char bytes[1 << 20];
    if (count != 4) return 2;
    long ms = atol(words[2]);
    struct timespec pause = {ms / 1000, (ms % 1000) * 1000000L};
    if (ms > 0) nanosleep(&pause, NULL);
    int from = open(words[1], O_RDONLY), to = open(words[3], O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (from < 0 || to < 0) return 1;
    for (ssize_t size; (size = read(from, bytes, sizeof bytes)) > 0;)
        if (write(to, bytes, size) != size) return 1;
    return 0;
}
