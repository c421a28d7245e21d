"""Files in a folder or a bucket, and signatures of their URLs."""
