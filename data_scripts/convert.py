"""Write a published training set as shards that train, or shards as a JSON-lines file and a folder of images.

    python data_scripts/convert.py --help
    python data_scripts/convert.py deepeyes downloads/DeepEyes-Datasets-47k data/deepeyes
    python data_scripts/convert.py visualprobe downloads/VisualProbe_train data/visualprobe --boxes traces.json
    python data_scripts/convert.py jsonl my/samples.jsonl data/mine --max-side 4096
    python data_scripts/convert.py unpack data/mine my-copy

Images are copied byte for byte unless --max-side is given. After a kill the same command goes on where it stopped.
Beside the shards lie shards.json, their index, summary.json, and dropped.jsonl with every row that made no sample.
`infogap data convert` is the same command.
"""

from __future__ import annotations

import logging
import sys

from infogap.cli import short_errors
from infogap.data.convert.command import main

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with short_errors():
        main(sys.argv[1:], prog="python data_scripts/convert.py")
