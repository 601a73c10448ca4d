"""Signs a request to AWS as AWS's own SDK for Python does, and prints the signature.

Reads one JSON object from standard input: url, body, date (20150830T123600Z), access_key_id,
secret, region, service.
"""
import json
import sys

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

asked = json.load(sys.stdin)
request = AWSRequest(
    "POST",
    asked["url"],
    data=asked["body"].encode(),
    headers={
        "Content-Type": "application/x-www-form-urlencoded",
        "X-Amz-Date": asked["date"],
    },
)
request.context["timestamp"] = asked["date"]
signer = SigV4Auth(
    Credentials(asked["access_key_id"], asked["secret"]), asked["service"], asked["region"]
)
text = signer.string_to_sign(request, signer.canonical_request(request))
print(signer.signature(text, request))
