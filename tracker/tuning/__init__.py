"""Ways to make an RGB-X tracker of a pre-trained RGB tracker; :mod:`tracker.tuning.base` says how one plugs in."""
