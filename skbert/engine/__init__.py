"""The engine: texts -> tokens -> packed batches -> encoder -> head. No scikit-learn here.

Shapes everywhere are written in one vocabulary: ``n_texts``, ``n_tokens`` (of all texts of
a batch together, without padding), ``d_model``, ``n_heads``, ``d_head``, ``n_classes``.
"""
