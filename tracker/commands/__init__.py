"""The commands of ``rgbx``, by what they work on; :mod:`tracker.cli` puts them together.

What a command needs is imported when it runs: torch takes seconds, and ``rgbx --help`` should not.
"""
