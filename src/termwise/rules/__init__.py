"""How each operator acts on a Series: one file a family, one line an operator.

`register` enters a rule for your own operator; the families are the functions named here.
"""

from termwise.rules import attention, norms, products, recurrent, selections, vision
from termwise.rules.elementwise import frozen, gated, gating
from termwise.rules.fallback import linearise
from termwise.rules.linear import reducing, structural
from termwise.rules.registry import RULES, Call, Entry, Rule, plain, register

__all__ = [
    "RULES",
    "Call",
    "Entry",
    "Rule",
    "attention",
    "frozen",
    "gated",
    "gating",
    "linearise",
    "norms",
    "plain",
    "products",
    "recurrent",
    "reducing",
    "register",
    "selections",
    "structural",
    "vision",
]
