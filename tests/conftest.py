"""Gives every test run the specification's plug-in: `--backend NAME[,NAME…]`, `--profile NAME`, the mark
`thorough` and the `backend` fixture.

Here, and not in tests/spec, because pytest reads options from the topmost conftest of the folder it is given
(`testpaths`).
"""

import pytest

from tinygpt_core import backends

pytest_plugins = ["spec.plugin"]


def _cuda_on_cpu(device: str) -> type:
    from cuda_on_cpu.backend import EmulatedBuffer  # imports NumPy and the plug-in

    return EmulatedBuffer


backends.register("cuda-on-cpu", _cuda_on_cpu, None, "the CUDA kernels compiled for the CPU, for tests", -1)


# What takes long, and why: a file, or a test in one. It is marked `thorough`, so that the default run stays
# within two minutes on two cores; continuous integration runs all of it.
LONG = {
    "test_contributing.py::test_a_recipe_does_what_it_says": "follows it in a copy, pytest and all",
    "test_contributing.py::test_all_recipes_together_keep_the_rules": "follows them in a copy, mypy and all",
    "test_book.py::test_pictures_are_what_their_script_draws": "trains and measures what the pictures show",
    "test_book.py::test_every_picture_has_a_script_and_a_place_in_the_book": "draws all pictures",
    "test_examples.py::test_two_moons": "trains",
    "test_examples.py::test_iris_and_digits": "trains",
    "test_examples.py::test_names_rnn_vs_gpt": "trains",
    "test_examples.py::test_shakespeare_gpt": "trains",
    "test_examples.py::test_code_model": "trains",
    "test_readme.py::test_python_blocks_print_what_is_shown": "runs every block of the book",
    "test_readme.py::test_commands_work_as_written": "trains, in processes",
    "test_site.py::test_a_notebook_runs_and_prints_what_it_shows": "trains",
    "test_site.py::test_the_site_is_built_without_a_warning": "builds it",
    "test_site.py::test_the_site_works_from_disk_in_a_browser": "builds it and opens it",
    "test_site.py::test_axe_finds_nothing_on_the_site": "builds it and opens it",
    "test_site.py::test_every_block_prints_the_books_text_in_the_browser": "runs the book in a browser",
    "test_site.py::test_a_block_is_edited_interrupted_and_copied": "builds the site and opens it",
    "test_site.py::test_where_memory_may_be_shared_an_interrupt_leaves_what_python_knows": "builds the site",
    "test_site.py::test_the_book_goes_on_without_a_network": "builds the site and opens it",
    "test_site.py::test_search_finds_chapters_before_the_reference": "builds the site and opens it",
    "test_site.py::test_wide_code_is_read_or_scrolled_visibly_and_figures_fit_the_dark": "builds the site",
    "test_explain_page.py": "looks at pages in a browser",
    "test_live_page.py": "looks at a page in a browser",
    "test_live_worker.py": "runs Python in a browser",
    "test_cuda_on_cpu.py": "compiles the CUDA kernels for the CPU, and runs one thread after the other",
    "test_cuda_graph.py": "runs the CUDA step on the CPU",
    "test_outside_backend.py": "runs laws in an environment of its own",
    "test_resume.py": "kills runs and resumes them",
    "test_spec_itself.py::test_what_takes_long_is_made_when_asked_for": "runs laws in processes",
    "test_spec_itself.py::test_it_runs_outside_the_repository": "runs laws in processes",
    "test_spec_itself.py::test_several_backends_run_side_by_side": "runs laws in processes",
    "test_spec_itself.py::test_every_installed_backend_is_tried_by_default": "runs laws in processes",
    "test_spec_itself.py::test_a_missing_backend_is_an_error": "runs laws in processes",
    "test_spec_itself.py::test_the_minimal_backend_passes_the_whole_specification": "runs all laws",
    "test_spec_itself.py::test_a_broken_backend_is_caught": "tries a thousand cases on each",
    "test_spec_itself.py::test_what_catches_broken_backends_lets_the_minimal_one_pass": "runs many laws",
    "test_backends.py::test_the_command_line_stays_usable_beside_a_broken_plugin": "trains, in processes",
    "test_backends.py::test_train_takes_the_fastest_and_a_run_keeps_its_backend": "trains",
    "test_backends.py::test_generate_gives_one_text_for_a_seed_on_every_backend": "trains",
    "test_backends.py::test_a_numpy_that_cannot_be_imported": "trains, in processes",
    "test_backend_agreement.py::test_the_same_loss_for_twenty_steps": "trains on all backends",
    "test_benchmarks.py::test_sizes_add_up_to_all_there_is": "counts every line there is",
    "test_benchmarks.py::test_backends": "trains",
    "test_best.py::test_a_run_ends_when_it_has_lost_patience": "trains",
    "test_best.py::test_a_run_that_gets_worse_ends_early_and_its_best_is_kept": "trains, in processes",
    "test_best.py::test_killed_between_the_two_checkpoints_it_is_the_same_run": "trains, again and again",
    "test_best.py::test_stopped_anywhere_and_resumed_it_is_the_same_run": "trains, again and again",
    "test_find_learning_rate.py::test_a_search_prints_its_curve_and_keeps_nothing_else": "trains",
    "test_find_learning_rate.py::test_rates_that_are_all_too_high_are_said": "starts a process",
    "test_generate_options.py::test_a_prompt_that_is_no_text_is_refused": "starts processes",
    "test_generate_options.py::test_a_prompt_from_standard_input_and_json": "starts processes",
    "test_generate_options.py::test_a_special_token_is_taken_as_one_on_request_only": "starts processes",
    "test_generate_options.py::test_a_text_ends_before_a_stop_text": "starts processes",
    "test_generate_options.py::test_bad_options_get_one_clear_line": "starts processes",
    "test_init_from.py": "trains, in processes",
    "test_lora.py::test_a_run_of_our_own_is_tuned_goes_on_and_is_looked_into": "trains, in processes",
    "test_lora.py::test_a_tokenizer_beside_adapters_is_not_needed": "starts processes",
    "test_lora.py::test_from_a_pretrained_run_to_a_folder_that_transformers_reads": "trains, in processes",
    "test_lora.py::test_help_says_what_there_is": "starts processes",
    "test_lora.py::test_mistakes_get_one_clear_line": "a process for each mistake",
    "test_lora.py::test_peft_reads_ours_and_we_read_its": "imports transformers and peft",
    "test_samples.py::test_samples_are_printed_and_logged": "trains, in processes",
    "test_samples.py::test_sampling_changes_nothing_else_and_is_resumed_to_the_bit": "trains",
    "test_settings_file.py::test_files_that_are_none": "starts processes",
    "test_settings_file.py::test_what_is_printed_makes_the_same_run": "trains, in processes",
    "test_trainer.py": "trains fifty small runs",
    "test_sharding.py::test_experts_are_the_same_for_many_ranks": "trains, with several threads",
    "test_sharding.py::test_muon_and_averages_are_the_same_for_many_ranks": "trains, with several threads",
    "test_sharding.py::test_a_divided_optimizer_remembers_a_part": "trains, with several threads",
    "test_conversations.py::test_a_model_answers_as_it_was_taught": "trains, in processes",
    "test_conversations.py::test_a_chat_model_of_another_format_goes_there_and_back": "trains, in processes",
    "test_conversations.py::test_what_does_not_work_gets_one_clear_line": "starts processes",
    "test_conversations.py::test_a_run_goes_on_to_the_bit": "trains",
    "test_conversations.py::test_a_draft_changes_no_answer": "trains, in processes",
    "test_conversations.py::test_a_chat_in_json": "trains, in processes",
    "test_conversations.py::test_a_chat_on_a_terminal": "trains, in processes",
    "test_conversations.py::test_the_same_template_travels_with_the_model": "trains, in processes",
    "test_conversations.py::test_a_model_that_has_read_text_is_taught_to_answer": "trains, in processes",
    "test_conversations.py::test_it_goes_on_and_travels_with_its_template": "trains, in processes",
    "test_conversations.py::test_a_model_of_text_may_be_asked_as_it_is": "trains, in processes",
    "test_conversations.py::test_characters_that_the_marks_need_are_named": "trains, in processes",
    "test_families.py::test_experts_that_are_trained_here_run_elsewhere": "imports transformers",
    "test_lora.py::test_adapters_alone_and_their_base_are_the_model": "of every family",
    "test_lora.py::test_a_run_with_adapters_is_resumed_to_the_bit": "trains, again and again",
    "test_benchmarks.py::test_recipe_compares_at_equal_tokens_and_at_equal_time": "trains",
    "test_benchmarks.py::test_the_first_look_at_a_gpu_runs_without_one": "starts a process",
    "test_speculative.py::test_a_run_is_the_draft_of_another": "trains, in processes",
    "test_recipe.py::test_a_run_that_was_stopped_goes_on_to_the_bit": "trains, again and again",
    "test_live.py::test_the_default_model_can_be_looked_into_and_trained_on": "trains",
    "test_families.py::test_whatever_a_setting_says_is_loaded_or_refused": "writes and reads many models",
    "test_runs.py::test_a_step_that_cannot_be_is_refused": "a process for each mistake",
    "test_runs.py::test_a_count_of_steps_that_cannot_be_is_refused": "a process for each mistake",
    "test_prompts_in_a_batch.py::test_several_prompts_on_the_command_line": "trains, in processes",
    "test_communicators.py::test_the_last_line_is_read_before_all_end": "waits for processes",
    "test_live_server.py::test_many_silent_connections_leave_room_again": "waits for connections",
    "test_checkpoint.py::test_a_crash_at_any_call_leaves_the_old_or_the_new_checkpoint": "at every call",
    "test_best.py::test_a_run_that_has_diverged_follows_the_advice_it_is_given": "trains",
    "test_vocabularies.py::test_long_words_are_encoded_in_little_more_than_linear_time": "long words",
    "test_docstrings.py::test_every_public_name_has_the_parts_that_apply": "reads all docstrings",
    "test_plotting.py::test_hostile_lines_get_one_clear_error_or_are_left_out": "starts processes",
    "test_without_modules.py::test_what_a_browser_can_do": "trains, in a process",
    "test_training.py::test_threads_that_sample_change_nothing_in_a_training": "trains, with threads",
    "test_sharding.py::test_a_rank_with_other_settings_is_named": "trains, with several threads",
    "test_sharding.py::test_more_ranks_than_shards_are_refused": "trains, with several threads",
    "test_sharding.py::test_shards_give_the_gradient_of_the_whole_batch": "trains, with several threads",
    "test_comparison.py::test_every_device_is_measured": "trains on each",
    "test_comparison.py::test_what_makes_no_sense_is_refused": "starts processes",
    "test_cli.py::test_two_runs_with_one_seed_are_the_same": "trains, in processes",
    "test_cli.py::test_quiet_shows_only_the_result": "trains, in processes",
    "test_speculative.py::test_so_it_is_with_a_gpt_whose_cache_is_taken_back": "tries every path of draws",
    "test_checkpoint.py::test_a_process_killed_while_it_saves": "kills processes",
    "test_checkpoint.py::test_reading_while_another_process_saves": "waits for processes",
    "test_cli.py::test_a_damaged_run_is_refused": "a process for each kind of damage",
    "test_cli.py::test_a_signal_keeps_the_step_and_says_how_to_go_on": "stops processes",
    "test_cli.py::test_bad_input_gets_one_clear_line": "a process for each mistake",
    "test_cli.py::test_train_identifiers_with_nothing_installed": "trains",
    "test_comparison.py::test_a_terminal_sees_what_is_being_measured": "trains on all backends",
    "test_cli.py::test_resume_goes_on_with_more_steps": "trains, in processes",
    "test_cli.py::test_another_corpus_is_noticed_on_resume": "trains, in processes",
    "test_cli_convert.py::test_gpt2s_real_tokenizer": "reads all of GPT-2's vocabulary",
    "test_comparison.py::test_a_wrong_backend_is_named_with_what_is_wrong": "trains on each",
    "test_docstrings.py::test_the_rules_apply_to_something": "reads all docstrings",
    "test_earlier_runs.py::test_training_goes_on_as_it_would_have": "trains",
    "test_formats.py::test_transformers_agrees": "imports transformers",
    "test_loggers.py::test_tensorboard_shows_the_log_and_no_second_branch_after_a_resume": "slow to import",
    "test_loggers.py::test_wandb_gets_the_log": "starts W&B",
    "test_parallel_runs.py": "runs in several processes, some of which are killed",
    "test_sharding.py::test_the_number_of_ranks_changes_no_bit": "trains, with several threads",
    "test_sharding.py::test_many_ranks_keep_the_best_end_early_and_write_as_one_does": "trains, with threads",
    "test_sharding.py::test_many_ranks_begin_with_a_model_as_one_does": "trains, with several threads",
    "test_sharding.py::test_a_run_of_four_goes_on_with_one_and_with_two": "trains, with several threads",
    "test_pretokenize.py::test_splits_as_the_original_around_every_assigned_character": "all of Unicode",
    "test_runs.py::test_the_estimate_is_below_what_a_run_takes": "measures processes",
    "test_time_budget.py": "trains by the clock",
    "test_vocabularies.py::test_ids_are_those_of_tiktoken_for_every_assigned_character": "all of Unicode",
    "test_runs.py::test_death_between_the_renames_of_the_last_checkpoint": "kills processes",
    "test_runs.py::test_killed_before_the_first_checkpoint_it_begins_again_with_its_settings": "kills one",
    "test_runs.py::test_one_directory_is_given_to_one_of_two": "waits for processes",
    "test_runs.py::test_three_seeds_that_begin_at_once_are_three_runs": "trains, in processes",
    "test_threads.py::test_two_threads_sample_while_one_trains": "trains, with threads that change often",
    "spec/test_autograd_laws.py::test_a_hundred_thousand_operations_in_a_row": "is long in itself",
    "spec/test_method_laws.py::test_positions_behind_the_floats_that_are_integers": "sorts 16 million",
    "test_communicators.py::test_nccl_gives_the_bits_of_one_process": "trains, with several threads",
    "test_encoders.py::test_ids_are_those_of_gpt2": "reads all of GPT-2's vocabulary",
    "test_ngram_embeddings.py::test_a_run_that_was_stopped_goes_on_to_the_bit": "trains",
    "test_ngram_prior.py::test_a_run_that_was_stopped_goes_on_to_the_bit": "trains",
    "test_live.py::test_a_model_with_large_tables_can_be_looked_into_and_trained_on": "trains 180,000 rows",
    "test_progress.py": "trains in a terminal",
    "test_convolution.py::test_same_as_pytorch": "imports PyTorch",
    "test_benchmarks.py::test_the_first_look_at_a_gpu_looks": "runs the CUDA step on the CPU",
    "test_benchmarks.py::test_the_documents_give_the_sizes_in_hundreds": "counts every line there is",
    "test_families.py::test_logits_and_text_are_those_of_transformers": "imports transformers",
    "spec/test_autograd_laws.py::test_memory_grows_with_the_chain_and_no_faster": "makes long chains",
    "test_benchmarks.py::test_scaling": "trains",
    "test_benchmarks.py::test_both_sides_compute_the_same": "trains, also with PyTorch",
    "test_benchmarks.py::test_the_gpu_script_runs_without_a_gpu": "trains, also with PyTorch",
    "test_benchmarks.py::test_sides_of_quantized_weights_compute_the_same": "imports PyTorch",
    "test_chat_templates.py::test_ids_are_those_of_transformers": "imports transformers",
    "test_chat_templates.py::test_any_other_program_is_run_as_transformers_runs_it": "imports transformers",
    "test_tokenizer_json.py::test_auto_tokenizer_reads_an_exported_folder": "imports transformers",
    "test_families.py::test_experts_in_one_tensor_are_those_of_several": "imports transformers",
    "test_families.py::test_halves_in_shards_are_widened": "imports transformers",
    "test_families.py::test_widening_takes_little_more_memory_than_what_it_makes": "imports transformers",
    "test_lora.py::test_defaults_are_those_of_peft": "imports transformers and peft",
    "fuzz/test_readers.py::test_a_damaged_file": "damages many files",
    "test_speculative.py::test_a_folder_of_another_format_is_a_draft_and_has_one": "starts processes",
    "test_speculative.py::test_a_draft_with_other_tokens_than_a_folder_is_refused": "starts processes",
    "test_cli.py::test_any_text_file_is_a_stream": "trains, in processes",
    "test_cli.py::test_byte_pair_tokens": "trains, in processes",
    "test_cli.py::test_the_context_length_that_is_advised_works": "trains, in processes",
    "test_cli.py::test_generate_greedily": "starts processes",
    "test_runs.py::test_a_prompt_is_utf_8_whatever_the_locale": "starts processes",
    "test_runs.py::test_a_directory_of_a_run_without_a_checkpoint_can_be_used_again": "trains, in processes",
    "test_families.py::test_a_run_says_at_its_start_that_it_cannot_be_exported": "trains, in processes",
    "test_notebook.py::test_a_notebook_shows_one_drawing_that_grows": "trains, in a notebook",
    "test_comparison.py::test_a_pipe_gets_plain_lines_and_nothing_is_installed": "trains, in processes",
    "test_folders.py::test_the_first_id_outside_is_found": "reads large files",
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        test = item.nodeid.removeprefix("tests/").partition("[")[0]
        for name in (test, test.partition("::")[0]):
            if name in LONG:
                item.add_marker(pytest.mark.thorough(LONG[name]))


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tinygpt")
    group.addoption(
        "--fuzz-seconds", type=float, default=0.0, help="how long tests/fuzz looks for failures (default: 0)"
    )
    group.addoption("--fuzz-seed", type=int, default=0, help="where the long fuzzing begins (default: 0)")


@pytest.fixture(params=["python"] if backends.why_not("numpy") else ["python", "numpy", "cuda-on-cpu"])
def usable(request: pytest.FixtureRequest) -> str:
    """The name of each backend in turn that a model is tried on, as far as it can run here."""
    if why := backends.why_not(request.param):
        pytest.skip(f"{request.param} cannot run here: {why}")
    name: str = request.param
    return name
