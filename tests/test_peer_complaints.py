"""What users of other libraries complain of, and the tests that show it does not happen here.

A source `owner/name#12` is an issue or a pull request on GitHub, and `owner/name@1a2b3c4` is the
commit in whose code the defect was read. These complaints have no test:

- One job for each GPU (skorch-dev/skorch#95, keras-team/keras#7553) and GPU memory
  (huggingface/transformers#1134 and #26571): the tests run on machines without a GPU. They test
  what stays in memory after a fit on the CPU.
- LIME and SHAP (marcotcr/lime#651, shap/shap#4051) are not installed. A test predicts texts like
  those that they make.
- Multi-GPU wrappers, trackers and checkpoint folders of a `Trainer`: skbert has none of them. Tests
  show that no folder and no process appears.
- A learning rate schedule that users write by hand (skorch's BERT notebook): users of skbert write
  none. Tests show that it follows the rows and epochs of each fit.
"""

import ast
import re
from functools import cache

import pytest

from tests.offline import ROOT

#: Complaint, sources, tests.
COMPLAINTS = [
    # Saving and loading
    (
        "A model trained on a GPU does not load on a CPU",
        "ThilinaRajapakse/simpletransformers#874 huggingface/setfit#276 PriorLabs/TabPFN#326 "
        "PriorLabs/TabPFN#416",
        "tests/test_saving.py::test_a_pickle_imports_nothing_of_torch",
    ),
    (
        "Tensors are rebuilt before __setstate__ can choose a device",
        "skorch-dev/skorch#426 dreamquark-ai/tabnet#136",
        "tests/test_saving.py::test_a_pickle_contains_only_numbers_texts_and_arrays",
    ),
    (
        "After loading, device lies, or the model silently runs on the CPU",
        "skorch-dev/skorch#93 PriorLabs/TabPFN#1243",
        "tests/test_saving.py::test_a_device_that_is_not_available_is_replaced_with_a_warning",
    ),
    (
        "A file stores the weights twice",
        "autogluon/autogluon#5855",
        "tests/test_saving.py::test_a_pickle_contains_only_numbers_texts_and_arrays",
    ),
    (
        "A file has 27 GB",
        "PriorLabs/TabPFN#279 PriorLabs/tabpfn-extensions#70",
        "tests/test_saving.py::test_a_file_does_not_grow_with_the_training_texts",
    ),
    (
        "A pickle always holds the pretrained weights, or never",
        "skrub-data/skrub#1077",
        "tests/test_embedding.py::test_pickle_holds_the_hash_and_not_the_weights "
        "tests/test_embedding.py::test_pickle_with_its_weights",
    ),
    (
        "Lambdas and local objects break pickling",
        "PriorLabs/TabPFN#11 PriorLabs/TabPFN#9",
        "tests/test_saving.py::test_every_protocol_of_pickle_works",
    ),
    (
        "torch.load warns of weights_only, then breaks",
        "skorch-dev/skorch#1091",
        "tests/test_saving.py::test_saving_and_loading_never_call_torch_load",
    ),
    (
        "A saved model gives other results, has an unfitted head, or does not load",
        "ThilinaRajapakse/simpletransformers#713 huggingface/setfit#425 "
        "charles9n/bert-sklearn#2 mayuefine/c_AMPs-prediction#7",
        "tests/test_saving.py::test_a_model_that_stopped_early_predicts_the_same_in_another_process",
    ),
    (
        "A safe format refuses types it does not know, so users switch its safety off",
        "skops-dev/skops#501 probabl-ai/skore#400",
        "tests/test_saving.py::test_a_folder_contains_no_pickle_and_loads_without_one "
        "tests/test_saving.py::test_skops_needs_to_trust_one_name",
    ),
    (
        "A saved folder loses classes_, and some models cannot be pickled",
        "skorch-dev/skorch@5db0ddc",
        "tests/test_saving.py::test_labels_keep_their_type "
        "tests/test_saving.py::test_every_protocol_of_pickle_works",
    ),
    (
        "The head in a downloaded folder is a pickle, which can run any code",
        "huggingface/setfit@0f8e322",
        "tests/test_saving.py::test_a_folder_contains_no_pickle_and_loads_without_one "
        "tests/test_untrusted_folders.py::test_code_in_a_folder_is_never_run "
        "tests/test_house.py::test_nothing_is_unpickled_or_evaluated",
    ),
    # scikit-learn's contract
    (
        "predict and predict_proba have the classes in different orders",
        "huggingface/setfit#462 huggingface/setfit#587 huggingface/setfit#599",
        "tests/test_fitting.py::test_the_methods_agree "
        "tests/test_labels.py::test_classes_are_sorted_and_of_the_type_that_came "
        "tests/test_labels.py::test_the_estimator_gives_back_what_it_was_given",
    ),
    (
        "repr and clone fail, because constructor arguments are not attributes",
        "koaning/embetter#33 koaning/embetter#36 cleanlab/cleanlab#194",
        "tests/test_sklearn_contract.py::test_repr_and_clone_know_every_parameter",
    ),
    (
        "'super' object has no attribute '__sklearn_tags__'",
        "skorch-dev/skorch#1079 scikit-learn/scikit-learn#30479 scikit-learn/scikit-learn#30542 "
        "GAA-UAM/scikit-fda#706",
        "tests/test_sklearn_contract.py::test_tags_say_what_an_estimator_is",
    ),
    (
        "The kind of estimator is set by hand in _estimator_type",
        "PriorLabs/TabPFN@930ea72",
        "tests/test_sklearn_contract.py::test_tags_say_what_an_estimator_is",
    ),
    (
        "BaseEstimator before ClassifierMixin: not a classifier, so folds are not stratified",
        "charles9n/bert-sklearn@9cb510a",
        "tests/test_sklearn_contract.py::test_tags_say_what_an_estimator_is "
        "tests/test_meta_estimators.py::test_cross_val_predict",
    ),
    (
        "check_estimator runs one check on an estimator that takes texts",
        "scikit-learn/scikit-learn#12491 scikit-learn/scikit-learn#14057 EBjerrum/scikit-mol#46",
        "tests/test_sklearn_contract.py::test_the_battery_is_not_hollow "
        "tests/test_sklearn_contract.py::test_check_estimator",
    ),
    (
        "A text column of a ColumnTransformer must be 'text' and must not be ['text']",
        "scikit-learn/scikit-learn#14056 scikit-learn/scikit-learn#15588",
        "tests/test_meta_estimators.py::test_column_transformer_by_name_and_by_list",
    ),
    (
        "Are texts one-dimensional or two-dimensional?",
        "shaypal5/skift#4",
        "tests/test_meta_estimators.py::test_folds_of_each_container "
        "tests/test_containers.py::test_one_column",
    ),
    (
        "SelfTrainingClassifier refuses texts",
        "scikit-learn/scikit-learn#23323",
        "tests/test_meta_estimators.py::test_what_reads_the_texts_itself_wants_numbers "
        "tests/test_meta_estimators.py::test_self_training_takes_the_vectors",
    ),
    (
        "Weights go from one fold to the next when a parameter is a module",
        "skorch-dev/skorch#1073",
        "tests/test_meta_estimators.py::test_weights_do_not_leak_from_fold_to_fold "
        "tests/test_bad_input.py::test_parameters_out_of_range",
    ),
    (
        "fit writes parameters, so a clone of a fitted model keeps its old labels",
        "charles9n/bert-sklearn@9cb510a",
        "tests/test_fitting.py::test_fit_changes_no_parameter "
        "tests/test_fitting.py::test_a_second_fit_forgets_the_first",
    ),
    (
        "TextEncodeInput must be Union[...], for None, NaN, arrays and Series",
        "huggingface/tokenizers#733 pyg-team/pytorch_geometric#5647",
        "tests/test_bad_input.py::test_a_missing_text "
        "tests/test_bad_input.py::test_a_missing_text_of_a_series "
        "tests/test_containers.py::test_one_column",
    ),
    (
        "The constructor loads the model, so a grid over models scores one model",
        "koaning/embetter@c75f0f5",
        "tests/test_meta_estimators.py::test_a_grid_over_models_scores_each_of_them",
    ),
    (
        "dir() evaluates a property that loads the model, or one that raises ValueError",
        "skrub-data/skrub@9fb3ac5 PriorLabs/TabPFN@930ea72",
        "tests/test_meta_estimators.py::test_html_and_tab_completion_load_nothing",
    ),
    # Weights and imbalance
    (
        "There is no sample_weight, or weights of 1 change the result",
        "skorch-dev/skorch#203 skorch-dev/skorch#801 skorch-dev/skorch#630",
        "tests/test_weights_and_stopping.py::test_equal_weights_are_no_weights "
        "tests/test_weights_and_stopping.py::test_larger_weights_pull_towards_their_labels",
    ),
    (
        "score ignores sample_weight",
        "charles9n/bert-sklearn@9cb510a",
        "tests/test_fitting.py::test_the_methods_agree",
    ),
    (
        "There is no class_weight, or it leaks from the whole data into the folds",
        "huggingface/transformers#7024 huggingface/transformers#12997 "
        "huggingface/transformers#35061 huggingface/setfit#375 huggingface/setfit#407 "
        "skorch-dev/skorch#673 deepset-ai/FARM#219",
        "tests/test_weights_and_stopping.py::test_balanced_is_the_dict_of_inverse_frequencies "
        "tests/test_weights_and_stopping.py::test_balanced_weights_are_those_of_the_fold",
    ),
    (
        "Is there multilabel classification?",
        "charles9n/bert-sklearn#9",
        "tests/test_labels.py::test_several_labels_a_text_are_refused "
        "tests/test_meta_estimators.py::test_one_vs_rest_of_several_labels_a_text",
    ),
    # Memory, processes, threads
    (
        "n_jobs=2 kills the workers",
        "skorch-dev/skorch#714 skorch-dev/skorch#712",
        "tests/test_classifier.py::test_two_jobs_of_a_grid_search_give_the_scores_of_one",
    ),
    (
        "Memory climbs from fold to fold",
        "huggingface/transformers#1134 huggingface/transformers#26571 deepset-ai/FARM#544 "
        "deepset-ai/FARM#219",
        "tests/test_meta_estimators.py::test_models_of_earlier_folds_are_freed "
        "tests/test_load.py::test_three_hundred_fits_do_not_grow",
    ),
    (
        "The workers of a DataLoader clash with those of joblib",
        "joblib/joblib#1104",
        "tests/test_load.py::test_fit_starts_no_process_and_no_data_loader",
    ),
    (
        "Processes that are started for the tokenizer hang",
        "ThilinaRajapakse/simpletransformers#162 ThilinaRajapakse/simpletransformers#1030 "
        "ThilinaRajapakse/simpletransformers#1402",
        "tests/test_load.py::test_fit_starts_no_process_and_no_data_loader",
    ),
    (
        "Tokenizers warn after a fork (TOKENIZERS_PARALLELISM)",
        "huggingface/transformers#5486 skrub-data/skrub#1251",
        "tests/test_load.py::test_forking_after_a_fit_warns_of_nothing",
    ),
    (
        "RuntimeError: Already borrowed, because a fast tokenizer is not thread-safe",
        "huggingface/tokenizers#537 huggingface/transformers#47085",
        "tests/test_load.py::test_sixteen_threads_get_the_answers_of_one "
        "tests/test_subword_tokenizer.py::test_threads_may_share_it",
    ),
    # Side effects, noise, network
    (
        "A login for wandb is asked for, folders appear",
        "huggingface/transformers#16594 huggingface/smol-course#164 midas-research/dlkp#23 "
        "ThilinaRajapakse/simpletransformers#116",
        "tests/test_load.py::test_nothing_of_the_callers_is_changed "
        "tests/test_pretrained.py::test_a_fit_in_a_fresh_process_says_nothing_and_leaves_nothing",
    ),
    (
        "Folders named checkpoints, outputs, tmp_trainer and trainer_output appear",
        "huggingface/setfit@0f8e322 ThilinaRajapakse/simpletransformers@03a3789 "
        "huggingface/transformers#16594",
        "tests/test_load.py::test_nothing_of_the_callers_is_changed",
    ),
    (
        "'Some weights were not initialized', at every fit",
        "huggingface/transformers#5421",
        "tests/test_pretrained.py::test_a_fit_says_nothing_and_leaves_nothing",
    ),
    (
        "The constructor prints and opens a log, predict shows a progress bar",
        "charles9n/bert-sklearn@9cb510a",
        "tests/test_pretrained.py::test_a_fit_says_nothing_and_leaves_nothing "
        "tests/test_progress.py::test_nothing_is_shown_without_verbose",
    ),
    (
        "The network is asked for a model that is in the cache",
        "huggingface/transformers#30345 huggingface/transformers#36762 "
        "huggingface/transformers#34162",
        "tests/test_pretrained.py::test_the_hub_cache_comes_before_the_hub "
        "tests/test_pretrained.py::test_the_hub_cache_in_a_fresh_process",
    ),
    # Results
    (
        "The same seed gives another result",
        "ThilinaRajapakse/simpletransformers#1459 ThilinaRajapakse/simpletransformers#697 "
        "huggingface/transformers#28134",
        "tests/test_fitting.py::test_the_seed_decides_the_weights",
    ),
    (
        "An epoch is another one when more epochs follow",
        "ThilinaRajapakse/simpletransformers#1459",
        "tests/test_weights_and_stopping.py::test_partial_fit_knows_nothing_of_max_epochs",
    ),
    (
        "The schedule is made of all rows and one number of epochs, for every fold",
        "skorch-dev/skorch@5db0ddc",
        "tests/test_fitting.py::test_history_by_hand tests/test_training.py::test_records_by_hand",
    ),
    (
        "Fine-tuning on few texts ends in a model that predicts one class",
        "huggingface/sentence-transformers#617",
        "tests/test_fitting.py::test_few_texts_do_not_end_in_one_class",
    ),
    (
        "Wrong answers instead of an error when memory is short",
        "PriorLabs/TabPFN#850",
        "tests/test_load.py::test_too_little_memory_is_an_error_and_not_an_answer "
        "tests/test_training.py::test_out_of_memory_for_one_text_is_raised",
    ),
    (
        "A GPU is asked for, the CPU is used",
        "PriorLabs/TabPFN#423",
        "tests/test_device.py::test_fit_refuses_an_absent_device",
    ),
    (
        "The output of a text depends on the other texts of the batch",
        "huggingface/sentence-transformers#2312 huggingface/sentence-transformers#3197 "
        "huggingface/sentence-transformers#1356",
        "tests/test_classifier.py::test_predictions_do_not_depend_on_the_other_texts "
        "tests/test_load.py::test_any_text_is_predicted_in_its_row",
    ),
    (
        "Every text is padded to 256 tokens, and all become one tensor before training",
        "skorch-dev/skorch@5db0ddc",
        "tests/test_packing.py::test_pack_by_hand "
        "tests/test_fitting.py::test_history_by_hand "
        "tests/test_attention.py::test_groups_on_a_cpu_are_never_padded",
    ),
    (
        "Texts are cut and nothing is said",
        "huggingface/sentence-transformers#4060",
        "tests/test_fitting.py::test_truncation_by_hand "
        "tests/test_embedding.py::test_truncation_is_reported",
    ),
    (
        "Long texts get a majority vote and no probabilities",
        "ThilinaRajapakse/simpletransformers@03a3789",
        "tests/test_bad_input.py::test_a_text_of_100_kilobytes",
    ),
    (
        "Half precision is the default",
        "ThilinaRajapakse/simpletransformers@03a3789",
        "tests/test_precision.py::test_what_was_used_is_what_precision_says",
    ),
    (
        "The same texts are embedded again in every fold",
        "skrub-data/skrub#1554",
        "tests/test_embedding_cache.py::test_5_folds_and_10_values_encode_each_text_once",
    ),
    (
        "A cache whose key is the text alone gives one encoder the vectors of another",
        "koaning/embetter@c75f0f5",
        "tests/test_embedding_cache.py::test_other_vectors_have_other_keys",
    ),
    (
        "LIME and SHAP run out of memory, because their variants of a text come in one batch",
        "marcotcr/lime#651 shap/shap#4051",
        "tests/test_predict.py::test_thousands_of_variants_of_a_text_come_in_bounded_batches",
    ),
]


@cache
def defined_in(file):
    """Names of the test functions that a file defines."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


@pytest.mark.parametrize(
    ("complaint", "sources", "tests"), COMPLAINTS, ids=[complaint for complaint, *_ in COMPLAINTS]
)
def test_each_complaint_has_its_tests(complaint, sources, tests):
    for source in sources.split():
        assert re.fullmatch(r"[\w.-]+/[\w.-]+(#\d+|@[0-9a-f]{7})", source), source
    for test in tests.split():
        file, name = test.split("::")
        assert name in defined_in(file), f"{complaint!r} refers to {test}, which does not exist"
