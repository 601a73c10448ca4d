"""Asks AWS by its own SDK, with what stands in the environment and nothing else."""
import io
import os

import botocore.session
from botocore.exceptions import ClientError

session = botocore.session.get_session()
assert os.environ["AWS_ACCESS_KEY_ID"].startswith("AKIA") and len(os.environ["AWS_ACCESS_KEY_ID"]) == 20
assert "AWS_SESSION_TOKEN" not in os.environ

sts = session.create_client("sts", region_name="us-east-1")
assert sts.get_caller_identity()["Arn"] == "arn:aws:iam::123456789012:user/agent"
sts = session.create_client("sts", region_name="eu-west-3")
assert sts.get_caller_identity()["Account"] == "123456789012"

s3 = session.create_client("s3", region_name="eu-central-1")
large = os.urandom(3_000_000)
for key, body in (("plain", b"hello"), ("a b/c+d(e)~é'!*", b"odd name"), ("empty", b""), ("large", large)):
    s3.put_object(Bucket="bucket", Key=key, Body=body, Metadata={"a": "two  blanks", "b": "2"})
    assert s3.get_object(Bucket="bucket", Key=key)["Body"].read() == body, key
s3.put_object(Bucket="bucket", Key="stream", Body=io.BytesIO(large))
assert s3.get_object(Bucket="bucket", Key="stream")["Body"].read() == large
# Without a checksum: the hash of the body, or word that there is none.
from botocore.config import Config

for signed in (True, False):
    config = Config(request_checksum_calculation="when_required", s3={"payload_signing_enabled": signed,
                                                                      "addressing_style": "path"})
    other = session.create_client("s3", region_name="eu-central-1", config=config)
    other.put_object(Bucket="bucket", Key="by-path", Body=b"by path")
    assert other.get_object(Bucket="bucket", Key="by-path")["Body"].read() == b"by path"
try:
    s3.get_object(Bucket="bucket", Key="nothing")
    raise AssertionError
except ClientError as error:
    assert error.response["Error"]["Code"] == "NoSuchKey"
shown = s3.get_object(Bucket="bucket", Key="reflect")["Body"].read().decode()
assert '"token": "***' in shown and '"secret": "***' in shown, shown

# JSON, and a hash that nothing states.
dynamodb = session.create_client("dynamodb", region_name="ap-southeast-2")
assert "ExclusiveStartTableName" in dynamodb.list_tables(ExclusiveStartTableName="abc")["TableNames"][0]
# A path that is encoded twice in its signature.
functions = session.create_client("lambda", region_name="eu-central-1")
functions.meta.events.register("after-call", lambda **_: None)
try:
    functions.get_policy(FunctionName="arn:aws:lambda:eu-central-1:123456789012:function:f", Qualifier="1")
except Exception as error:  # What it answers is no JSON; that it was signed is what is asked here.
    assert "SignatureDoesNotMatch" not in str(error) and "403" not in str(error), error
print("ok: AWS's SDK")
