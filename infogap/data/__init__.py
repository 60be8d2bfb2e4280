"""Data: images, samples, shards, synthetic scenes and the datamodule."""
