"""What targets of `framework submit` must offer: jobs as the files and commands of a cluster."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from framework.core.problems import Problem

if TYPE_CHECKING:
    from framework.launching.cluster import Cluster
    from framework.launching.job import NamedJob, Submission


class Submitter(Protocol):
    """One kind of cluster; its fields are keys of its item in `submitters` of cluster.yaml."""

    def check(self, cluster: Cluster) -> Iterable[Problem]:
        """Every conflict; a key with a leading dot is one of the component's own."""
        ...

    def submission(self, jobs: Sequence[NamedJob]) -> Submission:
        """What hands these jobs over; several are variants of one recipe."""
        ...
