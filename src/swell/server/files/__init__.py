"""Uploads, downloads and thumbnails."""
