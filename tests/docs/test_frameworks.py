"""Packages of others that make calls, each in an environment of its own: docs/how-to/calls.md.

Their versions are those that the page was tried with. Those programs that the page has no room for
are here.
"""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.cli.place import variables_in
from tests.docs.reference import ROOT
from tests.docs.snippets import titled
from tests.venvs import python_with

PAGE = titled(ROOT / "docs" / "how-to" / "calls.md")

INSTRUCTOR = """
import instructor
import os
from openai import OpenAI
from pydantic import BaseModel


class Person(BaseModel):
    name: str
    age: int


url = f"{os.environ['HAULIER_URL']}/openai/v1"
client = instructor.from_openai(
    OpenAI(base_url=url, api_key=os.environ["HAULIER_TOKEN"]), mode=instructor.Mode.MD_JSON
)
# The simulator says what it was asked.
asked = "```json\\n{\\"name\\": \\"Ada\\", \\"age\\": 36}\\n```"
print(
    client.chat.completions.create(
        model="meta-llama/Llama-3.3-70B-Instruct-Turbo",
        response_model=Person,
        messages=[{"role": "user", "content": asked}],
    )
)
"""
DSPY = """
import dspy
import os

model = dspy.LM(
    "openai/meta-llama/Llama-3.3-70B-Instruct-Turbo",
    api_base=f"{os.environ['HAULIER_URL']}/openai/v1",
    api_key=os.environ["HAULIER_TOKEN"],
    num_retries=0,
    cache=False,
)
print(model("Name a prime."))
"""
LANGCHAIN_TOGETHER = """
import os
from langchain_together import ChatTogether

model = ChatTogether(
    model="meta-llama/Llama-3.3-70B-Instruct-Turbo",
    base_url=f"{os.environ['HAULIER_URL']}/together/v1",
    api_key=os.environ["HAULIER_TOKEN"],
)
print(model.invoke("Name a prime.").content)
"""
PRIME = "echo: Name a prime."
FIFTY = "50 answers, the last one: echo: Say 49."

PROGRAMS = {
    # what it needs, the program, and what it prints at least
    "langchain-openai==1.7.4": (PAGE["with_langchain.py"], FIFTY),
    "pydantic-ai-slim[openai]==2.68.0": (PAGE["with_pydantic_ai.py"], FIFTY),
    "langchain-together==0.4.0": (LANGCHAIN_TOGETHER, PRIME),
    "instructor==1.17.0": (INSTRUCTOR, "name='Ada' age=36"),
    "dspy==3.4.1": (DSPY, PRIME),
}


@pytest.mark.slow
def test_every_framework_gets_its_answers(
    home_of_up: Path, environment_of_a_reader: dict[str, str], tmp_path: Path
) -> None:
    environment = {**environment_of_a_reader, **variables_in(home_of_up / "env")}

    def run(package: str) -> str:
        program, printed = PROGRAMS[package]
        done = subprocess.run(
            [python_with(package), "-c", program],
            cwd=tmp_path,
            env={**environment, "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        well = done.returncode == 0 and printed in done.stdout
        return "" if well else f"{package}: {done.stdout}{done.stderr}"

    with ThreadPoolExecutor(2) as threads:
        problems = list(filter(None, threads.map(run, PROGRAMS)))
    assert not problems, "\n".join(problems)
