"""Offline resolution selection: the view of each sample that is just too small to answer from (LFPC section 3).

Every sample goes down a ladder of visual-token budgets, the largest first. On each level the policy that will be
trained answers from the scaled view, without the tool; the first answer that differs from its own answer on the
original selects the view. Results go to a manifest (`infogap.data.manifest`), so that a run that was killed goes on
where it stopped.
"""

from __future__ import annotations

from infogap.resolution.policy import PolicyAnswerer, ensure_manifest, make_header, select_with_policy
from infogap.resolution.report import SelectionReport
from infogap.resolution.selection import Answerer, ResolutionConfig, majority, same_answer, select_resolutions

__all__ = [
    "Answerer",
    "PolicyAnswerer",
    "ResolutionConfig",
    "SelectionReport",
    "ensure_manifest",
    "majority",
    "make_header",
    "same_answer",
    "select_resolutions",
    "select_with_policy",
]
