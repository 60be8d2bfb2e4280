"""From the files of published training sets to shards that train: one `Source` a data set, one way to write them."""
