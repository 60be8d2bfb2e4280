"""Offline resolution selection: the view of each sample that is just too small to answer from (LFPC section 3).

Every sample goes down a ladder of visual-token budgets, the largest first. On each level the policy that will be
trained answers from the scaled view, without the tool; the first answer that differs from its own answer on the
original selects the view. Results go to a manifest (`infogap.data.manifest`). The samples are dealt out to any number
of processes, and a run that was killed goes on where it stopped, with the same number of them or another.
"""

from __future__ import annotations

from infogap.resolution.config import ResolutionConfig
from infogap.resolution.manifests import ensure_manifest, select_with_policy
from infogap.resolution.policy import PolicyAnswerer, make_header
from infogap.resolution.questions import Answerer, majority, same_answer
from infogap.resolution.ranks import SelectionError
from infogap.resolution.report import SelectionReport
from infogap.resolution.selection import select_resolutions
from infogap.resolution.shares import Share

__all__ = [
    "Answerer",
    "PolicyAnswerer",
    "ResolutionConfig",
    "SelectionError",
    "SelectionReport",
    "Share",
    "ensure_manifest",
    "majority",
    "make_header",
    "same_answer",
    "select_resolutions",
    "select_with_policy",
]
