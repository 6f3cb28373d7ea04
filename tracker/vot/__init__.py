"""The VOT toolkit's benchmarks: DepthTrack's Pr, Re and F, and the EAO of VOT-RGBD2022 and VOT-RGBT2019.

The toolkit (GPL-3) is started as a process of its own, in whatever Python environment it is installed, and is never
imported; the tracker answers it through the TraX protocol.
"""
