"""The commands of ``rgbx``, by what they work on; :mod:`tracker.cli` puts them together.

A command imports what it needs when it runs, because importing torch takes seconds and ``rgbx --help`` should not.
"""
