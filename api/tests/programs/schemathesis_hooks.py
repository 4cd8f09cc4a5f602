"""Who asks, and about what: hooks for schemathesis, by the files that EXPLORE_TOKENS and EXPLORE_NAMES name.

Each request comes from another principal, so that none is asked to slow down, and of another role. Where a path names
a thing, every other request names one that is there.
"""

import itertools
import json
import os

import schemathesis

with open(os.environ["EXPLORE_TOKENS"]) as tokens:
    TOKENS = itertools.cycle(tokens.read().split())
with open(os.environ["EXPLORE_NAMES"]) as names:
    NAMES = json.load(names)
TURNS = itertools.count()


@schemathesis.hook
def before_call(context, case, kwargs):
    owner, token = next(TOKENS).split("=")
    turn = next(TURNS)
    if turn % 10:
        case.headers = {**(case.headers or {}), "Authorization": f"Bearer {token}"}
    if turn % 2:
        for name in case.path_parameters or {}:
            things = NAMES["keys" if case.path.startswith("/api/keys") else "tokens"]
            case.path_parameters[name] = {**NAMES, "id": things.get(owner, NAMES["id"])}[name]
