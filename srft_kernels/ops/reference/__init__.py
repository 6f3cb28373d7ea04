"""The specification in plain torch. Other backends are compared with it, and it serves where none of them can."""
