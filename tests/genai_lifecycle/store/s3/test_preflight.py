"""Every way in which a store does not work is provoked for real; each is told in one sentence within 5 s."""

from __future__ import annotations

import socket
import time
from datetime import timedelta
from urllib.parse import urlsplit

import pytest
from conftest import free_port

from genai_lifecycle.errors import StorageFailed
from genai_lifecycle.runtime.s3_address import S3Root
from genai_lifecycle.store.s3.preflight import open_root

pytestmark = [pytest.mark.s3, pytest.mark.usefixtures("in_environment")]

ANSWERED_WITHIN_S = 5.0
READER = {"filter:tempauth": {"user_lifecycle_reader": "reader-secret"}}  # an account's user without any right


def check(uri: str = "s3://checked/team/a", endpoint: str | None = None, keys=(None, None), writes: bool = True):
    """The check with boto3 loaded: that is a matter of the machine, not of the store."""
    import boto3  # noqa: F401

    started = time.monotonic()
    try:
        open_root(S3Root.parse(uri), endpoint, *keys, writes=writes)
    finally:
        assert time.monotonic() - started < ANSWERED_WITHIN_S


def assert_told(said: str, hint: str, *given, **more) -> None:
    """The sentence and the hint, neither with a key in it."""
    with pytest.raises(StorageFailed, match=said) as caught:
        check(*given, **more)
    assert hint in caught.value.hint
    assert "secret" not in str(caught.value).replace("secret key", "").lower().replace("aws_secret_access_key", "")


# --- it works -------------------------------------------------------------------------------------


def test_a_missing_bucket_is_made_and_nothing_is_left_in_it(s3_store):
    check("s3://made-by-the-check/team/a")
    assert "made-by-the-check" in [bucket["Name"] for bucket in s3_store.client().list_buckets()["Buckets"]]
    assert s3_store.objects("made-by-the-check") == {}
    check("s3://made-by-the-check/team/a")


def test_it_stays_below_the_prefix(s3_store, monkeypatch):
    check("s3://checked")
    s3_store.client().put_object(Bucket="checked", Key="team/other", Body=b"untouched")
    touched = []
    from genai_lifecycle.store.s3 import preflight

    def watched(**settings):
        client = new_client(**settings)
        client.meta.events.register("before-send.s3", lambda request, **_: touched.append(urlsplit(request.url).path))
        return client

    new_client = preflight.new_client
    monkeypatch.setattr(preflight, "new_client", watched)
    check("s3://checked/team/a")
    assert len(touched) == 3 and all(path.startswith("/checked/team/a/.lifecycle-check-") for path in touched), touched
    assert s3_store.objects("checked") == {"team/other": b"untouched"}


def test_a_run_that_only_reads_writes_nothing(s3_store):
    assert_told("The bucket 'never-made' does not exist", "Correct --data-dir", "s3://never-made/a", writes=False)
    assert "never-made" not in [bucket["Name"] for bucket in s3_store.client().list_buckets()["Buckets"]]


def test_the_keys_of_the_flags_go_before_those_of_the_environment(s3_store, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    check(keys=(s3_store.key, s3_store.secret))


def test_the_keys_of_a_profile(s3_store, monkeypatch, tmp_path):
    (tmp_path / "credentials").write_text(
        f"[team]\naws_access_key_id = {s3_store.key}\naws_secret_access_key = {s3_store.secret}\n"
    )
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "team")
    check()
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert_told("The profile that AWS_PROFILE names does not exist", "~/.aws/config")


def test_a_bucket_in_another_region_is_found(s3_store):
    """boto3 reads the right region out of the refusal, and asks again."""
    check()
    with s3_store.front("region", {"filter:s3api": {"location": "eu-west-1"}}) as port:
        check(endpoint=f"http://127.0.0.1:{port}")


def test_a_store_behind_tls_that_knows_no_checksum_trailers(s3_store, tls, certificate, monkeypatch):
    """What boto3 does by default since 2025, such a store keeps as a part of the file, or refuses."""
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    with s3_store.relay(tls) as port:
        check(endpoint=f"https://127.0.0.1:{port}")
        monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
        with pytest.raises(StorageFailed):
            check(endpoint=f"https://127.0.0.1:{port}")


# --- it does not answer ---------------------------------------------------------------------------


def test_nobody_listens():
    assert_told(
        r"No S3 store answers at http://127.0.0.1:\d+ \(connection refused\)", "--s3-endpoint-url",
        endpoint=f"http://127.0.0.1:{free_port()}",
    )  # fmt: skip


def test_a_listener_that_says_nothing():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert_told(f"The S3 store at {url} (does not answer in time|did not answer within)", "", endpoint=url)


def test_a_name_that_nobody_knows():
    assert_told(
        "The name no-such-store.invalid of the S3 store cannot be resolved", "DNS",
        endpoint="http://no-such-store.invalid:9000",
    )  # fmt: skip


def test_a_certificate_that_nobody_signed(s3_store, tls):
    with s3_store.relay(tls) as port:
        url = f"https://127.0.0.1:{port}"
        assert_told(f"TLS connection to the S3 store at {url} failed: self.signed certificate", "AWS_CA_BUNDLE",
                    endpoint=url)  # fmt: skip


def test_https_where_http_is_spoken(s3_store):
    assert_told(
        "TLS connection to the S3 store .* failed", "use http://", endpoint=f"https://127.0.0.1:{s3_store.port}"
    )


def test_another_server_is_no_store(answering):
    with answering(lambda method, path: (405, "<html>Method Not Allowed</html>")) as url:
        assert_told(f"What answers at {url} is not an S3 store", "MinIO's S3 port", endpoint=url)


# --- it refuses -----------------------------------------------------------------------------------


def test_a_wrong_secret(s3_store):
    assert_told("does not accept the secret key", "AWS_SECRET_ACCESS_KEY", keys=(s3_store.key, "nonsense"))


def test_a_key_that_the_store_does_not_know(s3_store, answering):
    """Swift answers as to a wrong secret; Amazon and MinIO say which of the two it is."""
    assert_told("does not accept the secret key", "an unknown AWS_ACCESS_KEY_ID too", keys=("nobody", s3_store.secret))
    with answering(lambda method, path: (403, "InvalidAccessKeyId")) as url:
        assert_told("does not know the access key", "AWS_ACCESS_KEY_ID", endpoint=url)


def test_no_keys_at_all(monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert_told("There are no keys for the S3 store", "AWS_PROFILE")


def test_keys_without_the_right(s3_store):
    check()
    with s3_store.front("reader", READER) as port:
        given = {"endpoint": f"http://127.0.0.1:{port}", "keys": ("lifecycle:reader", "reader-secret")}
        assert_told("The keys may not write in s3://checked/team/a", "s3:PutObject", **given)
        assert_told("The keys may not list in s3://checked/team/a", "s3:ListBucket", **given, writes=False)


def test_a_missing_bucket_that_may_not_be_made(s3_store):
    check()
    with s3_store.front("full", {"app:proxy-server": {"max_containers_per_account": "1"}}) as port:
        assert_told(
            "The bucket 'one-too-many' does not exist .*, and these keys may not create it", "s3:CreateBucket",
            "s3://one-too-many/a", endpoint=f"http://127.0.0.1:{port}",
        )  # fmt: skip


def test_a_clock_that_is_wrong(monkeypatch):
    import botocore.auth

    right = botocore.auth.get_current_datetime
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *given: right(*given) - timedelta(minutes=20))
    assert_told("The clocks of this machine and of the S3 store at .* differ by", "Set the clock")


def test_a_bucket_cannot_be_made_in_a_region_that_the_store_is_not_in(monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert_told("is in another region than eu-west-1", "AWS_DEFAULT_REGION", "s3://of-another-region/a")


def test_a_bucket_that_moved_to_another_region(answering):
    with answering(lambda method, path: (404, "") if method == "HEAD" else (301, "PermanentRedirect")) as url:
        assert_told("is in another region", "AWS_DEFAULT_REGION", endpoint=url)


def test_a_proxy_that_sends_everybody_to_https(answering):
    with answering(lambda method, path: (301, "<html>Moved Permanently</html>")) as url:
        assert_told(f"What answers at {url} sends every request on", "https:// in place of http://", endpoint=url)


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (503, "SlowDown", r"is not ready \(SlowDown\)"),
        (507, "XMinioStorageFull", "is full"),
        (400, "ExpiredToken", "session token for S3 is not valid any more"),
        (409, "BucketAlreadyExists", "belongs to somebody else"),
        (400, "InvalidArgument", "refused PutObject with InvalidArgument: As S3 documents it."),
    ],
)
def test_other_refusals(answering, status, code, said):
    with answering(lambda method, path: (status, code)) as url:
        assert_told(said, "", endpoint=url)


def test_a_store_that_gives_back_something_else(answering):
    with answering(lambda method, path: (200, "<other/>")) as url:
        assert_told("does not give back what was written", "when_required", endpoint=url)
