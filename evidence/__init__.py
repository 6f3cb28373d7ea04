"""Experiments that say whether the method helps, their results as data, and the page that is made of them."""
