"""Published benchmarks, read from the files that their authors ship: one small class each."""
