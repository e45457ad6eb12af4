"""Tests of the prompts. Prints one line a test ("ok N - …")."""

import json
import random
import string
import tempfile
import unittest
from pathlib import Path

import prompts
import questions
import repositories
import rows


def many(row, kind="topic", name="invented", labels=("sport", "politics", "music"), n=300):
    return [prompts.render(random.Random(seed), name, kind, row, list(labels)) for seed in range(n)]


class Prompts(unittest.TestCase):
    def test_every_kind_has_questions(self):
        accepted = [s for s in repositories.sources().values() if s.status == "accept"]
        for source in accepted:
            self.assertTrue(questions.QUESTIONS.get(source.name) or questions.QUESTIONS[source.kind], source.name)
        known = {s.name for s in accepted} | {s.kind for s in accepted}
        self.assertEqual(set(questions.QUESTIONS) - known, set())

    def test_synonyms_are_of_one_length_and_in_one_order(self):
        for lists in questions.SYNONYMS:
            self.assertEqual({len(words) for words in lists}, {len(lists[0])})
            for words in lists:
                self.assertEqual(len(set(words)), len(words))
        self.assertEqual(len(prompts.SYNONYM), len(questions.SYNONYMS), "two entries begin with the same labels")

    def test_the_right_choice_is_the_label(self):
        given = many(rows.text_row("They won by three goals.", "sport"))
        self.assertEqual({p.choices[p.right].lower() for p in given}, {"sport"})
        self.assertEqual({p.right for p in given}, {0, 1, 2})
        self.assertTrue(all("They won by three goals." in p.text for p in given))
        self.assertGreater(len({p.text for p in given}), 200)

    def test_labels_are_listed_or_not(self):
        given = many(rows.text_row("They won.", "sport"))
        listed = [p for p in given if all(c in p.text for c in p.choices)]
        self.assertTrue(100 < len(listed) < 250, len(listed))
        self.assertTrue(all(p in listed or not any(c in p.text for c in p.choices) for p in given))

    def test_other_words(self):
        """Whatever the words, the right choice keeps its meaning."""
        given = many(rows.text_row("I like it.", "positive"), "sentiment", labels=("negative", "positive"))
        said = {p.choices[p.right].lower() for p in given}
        self.assertLessEqual(said, {"positive", "good", "great", "like", "happy", "satisfied", "favourable", "praise"})
        self.assertGreater(len(said), 6)

    def test_some_of_many_labels(self):
        labels = [f"intent {i}" for i in range(400)]
        given = many(rows.text_row("Hello.", "intent 7"), "intent", labels=labels)
        sizes = [len(p.choices) for p in given]
        self.assertTrue(all(len(set(p.choices)) == len(p.choices) for p in given))
        self.assertEqual(max(sizes), prompts.MOST_CHOICES)
        self.assertLess(min(sizes), 6)
        self.assertEqual({p.choices[p.right].replace("_", " ").lower() for p in given}, {"intent 7"})
        self.assertTrue(all(len(p.text) < 2 * prompts.MOST_LISTED for p in given))

    def test_candidates_of_a_row_stay_as_they_are(self):
        row = rows.choice_row({"question": "Where?"}, ["in the House", "in the yard", "nowhere"], 1)
        for p in many(row, "multiple choice", labels=()):
            self.assertEqual(p.choices[p.right], "in the yard")
            self.assertEqual(set(p.choices), {"in the House", "in the yard", "nowhere"})

    def test_a_field_in_a_question_is_not_repeated(self):
        given = many(rows.pair_row("The sky is blue.", "It has a colour.", "entailment"), "entailment",
                     labels=("contradiction", "entailment", "neutral"))
        for p in given:
            self.assertEqual((p.text.count("The sky is blue."), p.text.count("It has a colour.")), (1, 1))

    def test_questions_name_fields_that_exist(self):
        has = {"entailment": {"premise", "hypothesis"}, "nlupp_hotels": {"text", "question"}}
        for name, list_of in questions.QUESTIONS.items():
            for q in list_of:
                used = {f for _, f, _, _ in string.Formatter().parse(q) if f}
                self.assertLessEqual(used, has.get(name, set()), q)

    def test_sets(self):
        """Sets that are for choosing among models are apart."""
        with tempfile.TemporaryDirectory() as folder:
            about = {}
            for name, use in (("one", "train"), ("two", "dev")):
                rows.write(Path(folder) / f"{name}.jsonl", [rows.text_row(f"of {name}", "sport")])
                about[name] = {"kind": "topic", "use": use, "labels": ["music", "sport"]}
            (Path(folder) / "sets.json").write_text(json.dumps(about))
            self.assertEqual(list(prompts.Sets(folder).rows), ["one"])
            dev = prompts.Sets(folder, "dev")
            self.assertIn("of two", dev.prompt(random.Random(0), "two", dev.rows["two"][0]).text)


if __name__ == "__main__":
    unittest.main()
