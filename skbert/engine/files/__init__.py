"""Models and tokenizers on disk <-> modules in memory. No file is unpickled or executed."""
