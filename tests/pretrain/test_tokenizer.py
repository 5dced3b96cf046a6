from transformers import CLIPTokenizer

A_PHOTO_OF_A_CAT = [49406, 320, 1125, 539, 320, 2368, 49407]


def test_it_is_the_real_vocabulary(tokenizer):
    assert isinstance(tokenizer, CLIPTokenizer)
    assert len(tokenizer) == 49_408
    assert tokenizer("a photo of a cat")["input_ids"] == A_PHOTO_OF_A_CAT


def test_prompts_are_padded_with_the_end_token_to_77(tokenizer):
    ids = tokenizer("a photo of a cat", padding="max_length", truncation=True)["input_ids"]
    assert ids == A_PHOTO_OF_A_CAT + [49407] * 70


def test_case_and_spaces_do_not_matter(tokenizer):
    assert tokenizer("  A photo  of a CAT ")["input_ids"] == A_PHOTO_OF_A_CAT


def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path)
    assert loaded.model_max_length == 77
    text = "an icon of a ferris wheel, it's 12 o'clock: ✈ naïve"
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
