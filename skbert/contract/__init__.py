"""What every estimator owes scikit-learn and its user: inputs, parameters, fits, pickles."""
