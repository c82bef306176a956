"""The engine: texts -> tokens -> packed batches -> encoder -> head. No scikit-learn here.

All shapes use the same names: ``n_texts``, ``n_tokens`` (of all texts of a batch together, without
padding), ``d_model``, ``n_heads``, ``d_head``, ``n_classes``.
"""
