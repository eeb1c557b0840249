"""Models on disk, ours and everyone's: folders that transformers and sentence-transformers read too."""
