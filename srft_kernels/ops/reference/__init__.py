"""The specification as code, in plain torch: what other backends are compared with, and the fallback without them."""
