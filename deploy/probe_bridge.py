"""Is this container's bridge at work? Exit status 0: Redis answers, and it hears the bridge listen from here.

A bridge whose loops have died ends by itself, and the container with it; this tells what is left: whether it
is connected. The subscription is the connection that a bridge always has.
"""

from __future__ import annotations

import sys

import redis

from dynsvc.settings import Settings


def main() -> int:
    """Ask once."""
    url = Settings.load().orders.redis.url()
    with redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5) as client:
        here = str(client.client_info()["addr"]).rpartition(":")[0]
        subscribed = {
            str(other["addr"]).rpartition(":")[0]
            for other in client.client_list(_type="pubsub")
            if other["name"] == "dynsvc-bridge-events"
        }
    if here not in subscribed:
        print(f"no subscription from {here}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
