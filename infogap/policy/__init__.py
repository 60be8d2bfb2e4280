"""The policy in tensors: loading, images to patches, packed rows, attention, sampling, log-probabilities."""
