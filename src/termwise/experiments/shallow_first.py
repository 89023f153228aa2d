"""Are shallow terms learned first, and do they do most of the work?

H1 of Sun, Ding, Guo 2022 says that shallow subnetworks are trained first, H2 that they have great effect on the
performance.  The networks of the paper and a plain one are trained on 16x16 digits and recorded
(`termwise.experiments.endpoints`); both claims are decided on the first, a ResNet.  Of H1 the endpoints *share* and
*learned* are measured here; without the third, *causal* (see `train-by-paths`), it can fail and cannot hold.

The plain network has paths of one length from the input, and so no order; its constants have shorter ones, and show
what an order by constants alone looks like.
"""

from __future__ import annotations

import dataclasses

from termwise.experiments.endpoints import Trained, cells, concluded, endpoints, measure
from termwise.experiments.experiment import Conclusion, Experiment, Rows
from termwise.sentences import say
from termwise.verdict import CAUSAL, Verdict, corrected, decided, h1


@dataclasses.dataclass(frozen=True)
class Protocol(Trained):
    """What is trained and recorded; `quick` is a job of seconds, and shows nothing.

    Attributes:
        networks: by name, as on the command line; the claims are decided on the first.
        shuffled: those that have a twin whose labels are shuffled.
    """

    networks: tuple[str, ...] = ("resnet-20", "preact-resnet-20", "densenet-22-6", "plain-8")
    shuffled: tuple[str, ...] = ("resnet-20",)

    @staticmethod
    def quick() -> Protocol:
        """The same job, as small as it can be."""
        small = Protocol(networks=("resnet-8", "preact-resnet-8", "densenet-7-2", "plain-8"), shuffled=("resnet-8",))
        return dataclasses.replace(small, width=4, size=8, epochs=1, batch=128, probe=32, ratio=4)


def claims(rows: Rows, protocol: Protocol, causal: Verdict | None = None) -> tuple[Verdict, Verdict]:
    """H1 and H2, not yet corrected; without a verdict on its third endpoint H1 cannot hold."""
    first = protocol.networks[0]
    share, learned, effect = endpoints(rows, first)
    return h1(share, learned, causal or decided(CAUSAL, []), of=first), effect


def conclude(rows: Rows, protocol: Protocol) -> Conclusion:
    """The claims on the first network, then every endpoint of every network."""
    return concluded(rows, protocol, corrected(claims(rows, protocol)))


EXPERIMENT = Experiment(
    "shallow-first",
    say("Are shallow terms learned first, and do they do most of the work?"),
    Protocol,
    measure,
    conclude,
    cells=cells,
)
