"""Texts -> tokens -> packed batches. numpy only, without torch and without the model."""
