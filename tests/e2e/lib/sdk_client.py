"""The official SDKs as anybody uses them: key and address from the environment, nothing else."""
import os
import sys

import anthropic
import openai
import requests

said = openai.OpenAI().chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
assert said.choices[0].message.content == "hello", said
stream = openai.OpenAI().chat.completions.create(
    model="m", messages=[{"role": "user", "content": "hi"}], stream=True)
assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "hello"
said = anthropic.Anthropic().messages.create(
    model="m", max_tokens=8, messages=[{"role": "user", "content": "hi"}])
assert said.content[0].text == "hello", said
answer = requests.post(os.environ["MY_API_BASE_URL"] + "/upload?a=b", data=b"x" * 300_000,
                       headers={"Authorization": "Bearer " + os.environ["MY_API_API_KEY"]}, timeout=20)
assert answer.json()["bytes"] == 300_000, answer.text
print("python: openai", openai.__version__, "anthropic", anthropic.__version__, file=sys.stderr)
