"""RGB-X tracking: a two-stream ViT tracker, its data, training, evaluation and command line (``rgbx``)."""
