"""The report before training: counts, reasons, buckets, steps, and problems that point at their lines."""

from __future__ import annotations

import json
import re

import pytest
from data_helpers import colours, image_set, run_settings

from simpletune.data.preflight import preflight
from simpletune.data.preflight_lines import REPORT_WIDTH, tells


@pytest.fixture
def files(tmp_path):
    """config.json and multidatabackend.json with a text entry before the pictures' one, as settings name them."""
    config, data = tmp_path / "config.json", tmp_path / "multidatabackend.json"
    config.write_text('{\n  "seed": 1,\n  "train_batch_size": 2,\n  "num_eval_images": 2\n}\n')
    entries = [{"id": "text"}, {"id": "pictures", "instance_data_dir": "pictures", "caption_strategy": "textfile"}]
    data.write_text(json.dumps(entries, indent=2))
    return {"config_path": config, "data_backend_config": data}


def test_counts_buckets_and_steps(save, folder, files):
    for number in range(5):
        save(f"square-{number}.png", colours(64, 64))
        save(f"wide-{number}.png", colours(96, 48))
    (folder / "empty.png").touch()
    (folder / "x.txt").touch()
    report = preflight(run_settings(image_set(folder, repeats=1), num_eval_images=2, max_train_steps=50, **files))
    assert (report.found, report.used, len(report.training), len(report.held_out)) == (11, 10, 8, 2)
    assert sum(report.buckets.values()) == 8
    assert set(report.buckets) == {(64, 64), (96, 48)}
    assert report.plan.samples_per_epoch == 16
    assert report.steps_per_epoch == 8
    assert report.total_steps == 50
    text = "\n".join(report.lines())
    assert "11 pictures found, 10 used, 1 excluded; other files: 1" in text
    assert "1 empty file (0 bytes): empty.png" in text
    assert re.search(r"64 x 64 +\d pictures +\d batches", text)
    assert "an epoch: 16 pictures of 8, repeats and shares counted, 8 steps" in text
    assert "the run: 50 steps, 6.25 epochs" in text
    assert report.summary() == (
        "11 pictures found, 10 used, 1 excluded, 2 held out; 2 buckets, 8 steps an epoch, 50 in all"
    )
    assert max(map(len, report.lines())) <= REPORT_WIDTH


def test_a_set_without_usable_pictures_is_an_error_that_lists_every_reason(save, folder, files):
    save("a.png")
    save("b.png")
    (folder / "c.png").touch()
    report = preflight(run_settings(image_set(folder, caption_strategy="textfile"), **files))
    (problem,) = report.problems
    assert problem.severity == "error"
    assert (problem.file, problem.path, problem.line) == ("multidatabackend.json", "1.instance_data_dir", 7)
    assert "none of the 3 pictures" in problem.message
    assert problem.hint == (
        "2 no caption: a.png (no caption file a.txt); also b.png; "
        "1 empty file (0 bytes): c.png (there is nothing in it; copy it again from where it came)"
    )
    assert report.plan is None
    assert report.lines()[-1] == "nothing to train on"


def test_a_folder_without_pictures_or_none_at_all(folder, files):
    (folder / "x.txt").touch()
    (problem,) = preflight(run_settings(image_set(folder), **files)).problems
    assert "no pictures in" in problem.message
    assert "1 file of other kinds is there" in problem.message
    assert "png" in problem.hint
    (problem,) = preflight(run_settings(image_set(folder / "gone"), **files)).problems
    assert "can't be read: No such file or directory" in problem.message


def test_some_exclusions_and_odd_captions_are_warnings(save, folder, files):
    for name in "abc":
        save(f"{name}.png", colours(64, 64))
    (folder / "a.txt").write_bytes(b"ein B\xe4r")
    (folder / "b.txt").write_text("one\ntwo\n")
    report = preflight(run_settings(image_set(folder, caption_strategy="textfile"), **files))
    messages = [problem.message for problem in report.problems]
    assert {problem.severity for problem in report.problems} == {"warning"}
    assert 'data set "pictures": 1 of 3 pictures aren\'t used' in messages
    assert any("Latin-1" in message for message in messages)
    assert any("one of them is drawn a step" in message for message in messages)


def test_fewer_pictures_than_a_batch_is_a_warning(save, folder, files):
    save("a.png", colours(64, 64))
    (problem,) = preflight(run_settings(image_set(folder), **files)).problems
    assert problem.severity == "warning"
    assert (problem.file, problem.line) == ("config.json", 3)
    assert problem.message == "1 picture an epoch, fewer than train_batch_size 2: the last batch is smaller"


def test_holding_out_everything_is_an_error(save, folder, files):
    save("a.png", colours(64, 64))
    (problem,) = preflight(run_settings(image_set(folder), num_eval_images=2, **files)).problems
    assert problem.message == "num_eval_images 2 holds out all of 1 picture"
    assert (problem.severity, problem.line) == ("error", 4)


def test_much_enlarged_pictures_are_named(save, folder, files):
    save("tiny.png", colours(20, 20))
    save("fine.png", colours(64, 64))
    (problem,) = preflight(run_settings(image_set(folder), **files)).problems
    assert "1 picture enlarged more than twice: tiny.png" in problem.message


def test_the_plan_is_for_as_many_processes(save, folder, files):
    for number in range(8):
        save(f"{number}.png", colours(64, 64))
    assert preflight(run_settings(image_set(folder), **files), world_size=2).steps_per_epoch == 2


def test_more_unreadable_pictures_than_allowed_end_it(save, folder, files):
    for number in range(6):
        save(f"{number}.png", colours(64, 64))
    (folder / "empty.png").touch()
    (folder / "web.png").write_text("<html>")
    (folder / "phone.heic").write_bytes(b"x")
    settings = run_settings(image_set(folder), **files)
    (problem,) = preflight(settings).problems
    assert (problem.severity, problem.file, problem.path) == ("error", "config.json", "max_unreadable_share")
    assert "3 of 9 pictures can't be read, more than max_unreadable_share 0.25 allows" in problem.message
    assert "web.png" in problem.hint
    (warning,) = preflight(run_settings(image_set(folder), max_unreadable_share=0.34, **files)).problems
    assert warning.severity == "warning"


def test_limits_of_a_person_are_not_counted_as_unreadable(save, folder, files):
    save("0.png", colours(64, 64))
    for number in range(1, 9):
        save(f"{number}.png", colours(30, 30))
    report = preflight(run_settings(image_set(folder, minimum_image_size=40, repeats=1), **files))
    assert [problem.severity for problem in report.problems] == ["warning"]


def test_eval_sets_are_held_out_and_gaps_are_errors(save, folder, files):
    for number in range(4):
        save(f"{number}.png", colours(64, 64, number))
    (folder / "other").mkdir()
    for number in range(3):
        save(f"other/{number}.png", colours(64, 64, 50 + number))
    sets = [image_set(folder, start_step=3), image_set(folder / "other", id="judged", dataset_type="eval")]
    report = preflight(run_settings(*sets, max_train_steps=9, **files))
    assert {sample.id for sample in report.held_out} == {("judged", f"{n}.png") for n in range(3)}
    assert [sample.name for sample in report.training] == [f"{n}.png" for n in range(4)]
    (problem,) = report.problems
    assert problem.message == "no data set is trained on from step 0 to step 2"
    assert '"judged", for the validation loss (' in " ".join(line.strip() for line in report.lines())
    report = preflight(run_settings(sets[1], **files))
    assert report.problems[0].message == "every one of the 3 pictures is in an eval data set"
    assert report.problems[0].file == "multidatabackend.json"


def test_pictures_without_a_mask_are_left_out_and_a_missing_folder_of_masks_is_told(save, folder, files, tmp_path):
    for number in range(4):
        save(f"{number}.png", colours(64, 64, number))
    masks = tmp_path / "masks"
    masks.mkdir()
    for number in range(3):
        colours(64, 64).save(masks / f"{number}.png")
    masked = image_set(folder, mask_source="folder", mask_data_dir=masks)
    report = preflight(run_settings(masked, **files))
    assert [sample.name for sample in report.training] == ["0.png", "1.png", "2.png"]
    assert "3.png (no picture 3.* in" in report.problems[0].hint
    masked = image_set(folder, mask_source="folder", mask_data_dir=tmp_path / "none")
    (problem,) = preflight(run_settings(masked, **files)).problems
    assert problem.severity == "error"
    assert problem.path.endswith("mask_data_dir")


def test_what_the_lines_say_is_whole_and_needs_no_warning_beside_them(save, folder, files):
    for name in "abc":
        save(f"a-rather-long-name-of-a-picture-that-takes-much-of-a-line-{name}.png", colours(64, 64))
    save("tiny.png", colours(20, 20))
    (folder / "tiny.txt").write_text("one\ntwo\n")
    (folder / "a-rather-long-name-of-a-picture-that-takes-much-of-a-line-a.txt").write_text("one")
    report = preflight(run_settings(image_set(folder, caption_strategy="textfile"), **files))
    told = report.lines()
    assert max(map(len, told)) <= REPORT_WIDTH
    text = " ".join(line.strip() for line in told)
    assert "2 no caption: a-rather-long-name-of-a-picture-that-takes-much-of-a-line-b.png (no caption file" in text
    assert "also a-rather-long-name-of-a-picture-that-takes-much-of-a-line-c.png" in text
    assert "captions of 1 picture: more than one line" in text
    (beside,) = [problem for problem in report.problems if not tells(problem)]
    assert "enlarged" in beside.message


def test_pictures_of_other_sets_that_are_held_out_files_are_counted(save, folder, files):
    for number in range(4):
        save(f"{number}.png", colours(64, 64, number))
    sets = [image_set(folder), image_set(folder, id="again", caption_strategy="filename")]
    report = preflight(run_settings(*sets, num_eval_images=1, **files))
    assert (report.used, len(report.training), len(report.held_out)) == (8, 6, 1)
    assert "not trained on either: 1 picture of other data sets, which are the same files" in report.lines()


def test_a_key_that_is_left_out_is_shown_by_one_that_stands(save, folder, files):
    save("a.png", colours(64, 64))
    save("b.png", colours(64, 64))
    table = folder.parent / "table.csv"
    table.write_text("name,words\na.png,hello\n")
    text = files["data_backend_config"].read_text()
    files["data_backend_config"].write_text(text.replace('"textfile"', '"csv",\n    "metadata_path": "table.csv"'))
    report = preflight(run_settings(image_set(folder, caption_strategy="csv", metadata_path=table), **files))
    (problem,) = report.problems
    assert problem.path == "1.filename_column"
    assert "metadata_path" in problem.excerpt


def test_captions_without_parts_to_shuffle_are_told(save, folder, files):
    for number in range(3):
        save(f"a red, fox {number}.png", colours(64, 64, number))
    shuffled = {"caption_shuffle_count": 3, "caption_shuffle_keep": 0}
    assert not preflight(run_settings(image_set(folder, **shuffled), **files)).problems
    (problem,) = preflight(run_settings(image_set(folder, **shuffled, caption_separator=";"), **files)).problems
    assert problem.severity == "warning"
    assert problem.message == 'data set "pictures": no caption has parts to shuffle, with ";" between them'
    assert problem.path.endswith("caption_shuffle_count")


def test_what_is_special_about_a_set_is_said_with_it(save, folder, files):
    for number in range(3):
        save(f"{number}.png", colours(64, 64, number))
    special = {"crop": True, "crop_style": "random", "crop_variants": 3, "horizontal_flip": True, "end_step": 50}
    text = "\n".join(preflight(run_settings(image_set(folder, **special), **files)).lines())
    assert 'data set "pictures", 3 crops each, mirrored too, steps 0 to 50' in text
    assert "buckets (width x height in pixels), of all data sets at once" in text


def test_buckets_with_sides_that_the_model_has_no_positions_for_are_errors(save, folder, files):
    save("panorama.png", colours(1200, 200))
    save("square.png", colours(512, 512))
    settings = run_settings(image_set(folder, resolution=512, resolution_type="pixel_area"), **files)
    problem = next(one for one in preflight(settings).problems if one.severity == "error")
    assert (problem.path, problem.file) == ("1.resolution", "multidatabackend.json")
    assert "1 picture would train at 1248 x 208, and tiny has no positions for sides over 512 pixels" in problem.message
    assert "panorama.png" in problem.message
    assert '"crop_aspect"' in problem.hint
    larger = run_settings(settings.image_sets[0], **files, model_flavour="sd3-medium")
    assert all(one.severity != "error" for one in preflight(larger).problems)
