"""Nothing in the runtime knows an algorithm: no name of one, and no word that only some of them have."""

import ast
import pathlib
import re

from absl.testing import absltest

import tfrl
from tfrl.job import algorithms

ROOT = pathlib.Path(tfrl.__file__).parent / "runtime"
WORDS = {*algorithms(), "epsilon", "entropy", "advantage", "q_max", "value_loss", "policy_loss"}


def words(tree):
    """(line, word) of all names and texts in code; docstrings are no code."""
    docs = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(
            node
        ):
            docs.add(node.body[0].value)
    for node in ast.walk(tree):
        fields = [getattr(node, name, None) for name in ("id", "attr", "arg", "name", "module")]
        if isinstance(node, ast.Constant) and node not in docs:
            fields.append(node.value)
        for text in fields:
            if isinstance(text, str):
                yield from ((getattr(node, "lineno", 0), word) for word in re.findall(r"\w+", text))


class WordsTest(absltest.TestCase):
    def test_no_code_of_the_runtime_has_an_algorithms_word(self):
        found = [
            f"{path.relative_to(ROOT)}:{line}: {word}"
            for path in sorted(ROOT.rglob("*.py"))
            for line, word in words(ast.parse(path.read_text()))
            if word.lower() in WORDS
        ]
        self.assertEmpty(found)

    def test_rows_of_one_writer_are_a_chunk_everywhere(self):
        for name in ("write_chunks.py", "learner_replay.py"):
            text = (ROOT.parent / "replay" / name).read_text()
            self.assertNotRegex(text, r"(?i)blocks?\b")

    def test_it_sees_names_texts_and_attributes(self):
        code = 'def f(epsilon):\n    """dqn."""\n    return x.entropy, f"algo=ppo {epsilon}"\n'
        seen = [word for _, word in words(ast.parse(code)) if word in WORDS]
        self.assertCountEqual(seen, ["epsilon", "entropy", "ppo", "epsilon"])


if __name__ == "__main__":
    absltest.main()
