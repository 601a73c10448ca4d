"""The official SDKs, requests and the standard library, by the proxy alone: no variable tells them an
address."""
import os
import ssl
import urllib.request

import anthropic
import openai
import requests

assert not [name for name in os.environ if name.endswith("_BASE_URL")]
said = openai.OpenAI().chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
assert said.choices[0].message.content == "hello", said
stream = openai.OpenAI().chat.completions.create(
    model="m", messages=[{"role": "user", "content": "hi"}], stream=True)
assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "hello"
said = anthropic.Anthropic().messages.create(
    model="m", max_tokens=8, messages=[{"role": "user", "content": "hi"}])
assert said.content[0].text == "hello", said
answer = requests.post(os.environ["OWN"] + "/upload?a=b", data=b"x" * 300_000,
                       headers={"X-Own": os.environ["MY_API_API_KEY"]}, timeout=20)
assert answer.json()["bytes"] == 300_000, answer.text
# Without a word of who asks, and with somebody else's.
for headers in ({}, {"X-Own": "another's", "Authorization": "Bearer another's"}):
    answer = requests.get(os.environ["OWN"] + "/plain", headers=headers, timeout=20)
    assert answer.json()["path"] == "/plain", answer.text
# As strictly as Python looks at certificates from 3.13 on.
context = ssl.create_default_context()
context.verify_flags |= ssl.VERIFY_X509_STRICT
with urllib.request.urlopen(os.environ["OWN"] + "/plain", context=context, timeout=20) as answer:
    assert answer.status == 200
