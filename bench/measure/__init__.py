"""The measurements, one module each.

A module says what it is (`TITLE`), what a reader sees of it (`VIEWS`) and does it (`measure`).
"""
