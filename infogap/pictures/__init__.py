"""What is kept of an episode, and drawings of it: for TensorBoard, for the viewer and for `infogap ask`."""
