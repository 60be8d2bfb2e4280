"""Callbacks: the switch to stage 2, the log of episodes in pictures and text, the progress bar."""

from __future__ import annotations
