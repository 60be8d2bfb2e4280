"""Run notebooks from top to bottom and keep what they show.

    python notebooks/execute.py                          # all
    python notebooks/execute.py notebooks/01_method.ipynb

A notebook's metadata holds the SHA-256 of its cells at the time of the run, so that a test can tell outputs that are
older than the code from others. The kernel is the Python that runs this script; it opens no network port.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parent
TIMEOUT_S = 300
"""Seconds that a single cell may take."""

KERNEL = {
    "OMP_NUM_THREADS": "1",  # sums in one order on any number of cores
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore:IProgress not found",  # progress bars of Jupyter, which need one more package
}
"""Environment of the kernel, beside that of this process."""

RESULTS_TAG = "results"
"""Tag of the cell whose value is a dictionary of the notebook's numbers."""


class RunningPython(AsyncKernelManager):
    """Starts kernels with the interpreter of this process, whatever kernels are registered on the machine."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """How a kernel is started."""
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name="Python 3", language="python")


def execute(notebook: NotebookNode, folder: Path = FOLDER) -> None:
    """Run all cells in place.

    Args:
        notebook: the notebook; its outputs are replaced.
        folder: working directory of the kernel.

    Raises:
        CellExecutionError: if a cell fails.
    """
    with tempfile.TemporaryDirectory() as place:
        kernel = RunningPython(transport="ipc", ip=f"{place}/socket", connection_file=f"{place}/kernel.json")
        resources = {"metadata": {"path": str(folder)}}
        client = NotebookClient(notebook, km=kernel, timeout=TIMEOUT_S, resources=resources, record_timing=False)
        client.execute(cleanup_kc=True, env={**os.environ, **KERNEL, "IPYTHONDIR": place})  # also ends the kernel
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            _keep_smaller_picture(output.get("data", {}))
    notebook.metadata["sources_sha256"] = sources_hash(notebook)


def sources_hash(notebook: NotebookNode) -> str:
    """SHA-256 of all cells, in order."""
    text = "\0".join(f"{cell.cell_type}\0{cell.source}" for cell in notebook.cells)
    return hashlib.sha256(text.encode()).hexdigest()


def results(notebook: NotebookNode) -> dict[str, Any]:
    """The numbers in the output of the cell that is tagged for them."""
    (cell,) = (cell for cell in notebook.cells if RESULTS_TAG in cell.metadata.get("tags", []))
    (output,) = (output for output in cell.outputs if output.output_type == "execute_result")
    numbers: dict[str, Any] = ast.literal_eval(output.data["text/plain"])
    return numbers


def _keep_smaller_picture(data: dict[str, Any]) -> None:
    """IPython stores a Pillow image both as PNG and as JPEG: one will do."""
    kinds = [kind for kind in ("image/png", "image/jpeg") if kind in data]
    if len(kinds) == 2:
        del data[max(kinds, key=lambda kind: len(data[kind]))]


def main() -> None:
    """Run the notebooks that were named, or all, and save them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", type=Path, nargs="*", default=sorted(FOLDER.glob("*.ipynb")))
    for path in parser.parse_args().notebooks:
        notebook = nbformat.read(path, as_version=4)
        execute(notebook)
        nbformat.write(notebook, path)
        print(f"{path}: {path.stat().st_size / 1024:.0f} KiB, {results(notebook)}")


if __name__ == "__main__":
    main()
