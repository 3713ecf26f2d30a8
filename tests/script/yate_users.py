#!/usr/bin/env python3
"""What regfile does, with python-yate as it comes: users u0 to u9999, whose passwords are `p=N:%`.

Without an argument it is a script; with `HOST:PORT` it connects there.
"""

import asyncio
import sys

from yate.asyncio import YateAsync

USERS = {f"u{n}": f"p={n}:%" for n in range(10_000)}
BOUND = {}


def auth(message):
    password = USERS.get(message.params.get("username"))
    if password is None:
        return False
    message.return_value = password
    return True


def register(message):
    user = message.params["username"]
    if user not in USERS:
        return False
    BOUND[user] = message.params["data"]
    return True


def unregister(message):
    return BOUND.pop(message.params.get("username"), None) is not None


def route(message):
    target = BOUND.get(message.params["called"])
    if target is None:
        return False
    message.return_value = target
    return True


async def main(yate):
    ended = asyncio.Event()
    yate.set_termination_handler(ended.set)
    for name, handler in (
        ("user.auth", auth),
        ("user.register", register),
        ("user.unregister", unregister),
        ("call.route", route),
    ):
        assert await yate.register_message_handler_async(name, handler, 90)
    await ended.wait()


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1]:
        host, port = sys.argv[1].rsplit(":", 1)
        YateAsync(host, int(port)).run(main)
    else:
        YateAsync().run(main)
