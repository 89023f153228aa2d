"""Is it the same in the variants of residual networks, with gates on channels and with selective kernels?

H5 of Sun, Ding, Guo 2022 says that "low-degree term first" also explains SE-ResNets and SK-ResNets.  To explain them it
has to be seen in them: share, learned and effect (`termwise.experiments.endpoints`) hold in each variant, or the claim
fails with any one of them.  Each has a twin that is trained on shuffled labels.
"""

from __future__ import annotations

import dataclasses

from termwise.experiments.endpoints import Trained, cells, concluded, endpoints, measure
from termwise.experiments.experiment import Conclusion, Experiment, Rows
from termwise.sentences import say
from termwise.verdict import Verdict, corrected, h5


@dataclasses.dataclass(frozen=True)
class Protocol(Trained):
    """What is trained and recorded; `quick` is a job of seconds, and shows nothing.

    Attributes:
        networks: by name, as on the command line; the claim is on all of them.
        shuffled: those that have a twin whose labels are shuffled.
    """

    networks: tuple[str, ...] = ("se-resnet-20", "sk-resnet-20")
    shuffled: tuple[str, ...] = ("se-resnet-20", "sk-resnet-20")

    @staticmethod
    def quick() -> Protocol:
        """The same job, as small as it can be."""
        small = Protocol(networks=("se-resnet-8", "sk-resnet-8"), shuffled=("se-resnet-8",))
        return dataclasses.replace(small, width=4, size=8, epochs=1, batch=128, probe=32, ratio=4)


def claim(rows: Rows, protocol: Protocol) -> Verdict:
    """H5, not yet corrected."""
    return h5([each for name in protocol.networks for each in endpoints(rows, name)])


def conclude(rows: Rows, protocol: Protocol) -> Conclusion:
    """The claim, then every endpoint of every network."""
    return concluded(rows, protocol, corrected([claim(rows, protocol)]))


EXPERIMENT = Experiment(
    "variants",
    say("Are shallow terms learned first in SE- and SK-ResNets too?"),
    Protocol,
    measure,
    conclude,
    cells=cells,
)
