"""Networks in files: ours and the published ones, and the ways from one network's weights to another's."""

from tracker.models.checkpoints.files import (
    file_digest,
    find_weights,
    load_network,
    read_tensors,
    save_network,
    save_published,
)
from tracker.models.checkpoints.fingerprint import network_fingerprint
from tracker.models.checkpoints.initialize import initialize_two_stream, stream_mapping
from tracker.models.checkpoints.layouts import to_ostrack, to_srtrack

__all__ = [
    "file_digest",
    "find_weights",
    "initialize_two_stream",
    "load_network",
    "network_fingerprint",
    "read_tensors",
    "save_network",
    "save_published",
    "stream_mapping",
    "to_ostrack",
    "to_srtrack",
]
