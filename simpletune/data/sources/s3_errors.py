"""What can go wrong with a bucket, in words: which failures pass by themselves, which are a picture's, which are all's.

Errors are botocore's; it and aiohttp are imported only where one of them was caught.
"""

from __future__ import annotations

import asyncio
import errno
from dataclasses import dataclass

from simpletune.data.sources import SourceError, shown
from simpletune.redact import redact

_BUSY = frozenset(
    {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests"}
    | {"RequestTimeout", "InternalError", "ServiceUnavailable", "OperationAborted"}
)
_GONE = frozenset({"NoSuchKey", "404", "NotFound", "NoSuchVersion"})
_DENIED = frozenset({"AccessDenied", "AllAccessDisabled", "403", "Forbidden", "AccountProblem"})
_ARCHIVED = frozenset({"InvalidObjectState"})
_OTHERWISE = frozenset({"PreconditionFailed", "412"})
NO_SUCH_RANGE = frozenset({"InvalidRange", "416"})

SET_CREDENTIALS = (
    "run `aws configure`, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE for a profile of yours"
)
_CODES = {
    "NoSuchBucket": ("there is no bucket of that name", "check s3_url, and s3_endpoint if it isn't Amazon's"),
    "InvalidBucketName": ("that is no name a bucket can have", "check s3_url: s3://bucket/folder"),
    "InvalidAccessKeyId": ("the server doesn't know the access key", SET_CREDENTIALS),
    "SignatureDoesNotMatch": ("the secret key doesn't fit the access key", SET_CREDENTIALS),
    "InvalidToken": ("the session token isn't valid", "sign in again, for instance with `aws sso login`"),
    "ExpiredToken": ("the credentials have expired", "sign in again, for instance with `aws sso login`"),
    "RequestTimeTooSkewed": ("this machine's clock is wrong", "set the clock; requests are signed with the time"),
    "RequestExpired": ("this machine's clock is wrong", "set the clock; requests are signed with the time"),
    "PermanentRedirect": ("the bucket is in another region", "set AWS_DEFAULT_REGION to the bucket's region"),
    "AuthorizationHeaderMalformed": (
        "the bucket is in another region",
        "set AWS_DEFAULT_REGION to the bucket's region",
    ),
    "IllegalLocationConstraintException": (
        "the bucket is in another region",
        "set AWS_DEFAULT_REGION to the bucket's region",
    ),
}
_KINDS = {
    "PartialCredentialsError": ("half of the credentials is missing", SET_CREDENTIALS),
    "NoCredentialsError": ("no AWS credentials were found", SET_CREDENTIALS),
    "CredentialRetrievalError": ("the credentials couldn't be fetched", SET_CREDENTIALS),
    "ProfileNotFound": ("AWS_PROFILE names a profile that isn't there", "check ~/.aws/config and AWS_PROFILE"),
    "ConfigParseError": ("the AWS configuration file is damaged", "check ~/.aws/config and ~/.aws/credentials"),
    "SSLError": ("the server's certificate isn't trusted", "check s3_endpoint; AWS_CA_BUNDLE names other authorities"),
    "ProxyConnectionError": ("the proxy can't be reached", "check HTTPS_PROXY, HTTP_PROXY and NO_PROXY"),
    "EndpointConnectionError": ("the server can't be reached", "check the network, and s3_endpoint"),
    "ConnectTimeoutError": ("the server can't be reached", "check the network, and s3_endpoint"),
    "ParamValidationError": ("that is no name a bucket can have", "check s3_url: s3://bucket/folder"),
    "InvalidEndpointError": ("s3_endpoint is no address", "write it as https://server"),
}
_SIGN_IN = ("SSOError", "TokenRetrievalError")
_SLOW = ("ReadTimeoutError", "TimeoutError")


@dataclass(frozen=True)
class Where:
    """What is asked for, and how: for the words of an error."""

    url: str
    endpoint: str | None
    unsigned: bool

    def __str__(self) -> str:
        return redact(shown(self.url) + (f" at {shown(self.endpoint)}" if self.endpoint else ""))


def passes(error: BaseException) -> bool:
    """Whether trying again may help: the server is busy, doesn't answer in time, or the connection broke."""
    from botocore import exceptions as botocore

    if isinstance(error, botocore.ClientError):
        return _status(error) >= 500 or _status(error) == 429 or code_of(error) in _BUSY
    if isinstance(error, (botocore.SSLError, botocore.ProxyConnectionError)):
        return False
    if isinstance(error, (botocore.ConnectionError, botocore.HTTPClientError, botocore.IncompleteReadError)):
        return True
    if isinstance(error, botocore.FlexibleChecksumError) or type(error).__name__ in {
        "ResponseParserError",
        "ClientPayloadError",
    }:
        return True
    return isinstance(error, (asyncio.TimeoutError, TimeoutError, ConnectionError))


def of_picture(error: Exception, where: Where, tries: int) -> OSError:
    """What a failed request for one picture is called; a SourceError when all pictures would fail like it."""
    code = code_of(error)
    if code in _GONE:
        return FileNotFoundError(errno.ENOENT, "it isn't in the bucket any more")
    if code in _DENIED:
        return PermissionError(errno.EACCES, "these credentials may not read it")
    if code in _ARCHIVED:
        return OSError(errno.EIO, "it is archived; restore it to a storage class that can be read at once")
    if code in _OTHERWISE | NO_SUCH_RANGE:
        return OSError(errno.EIO, "it changed while it was read")
    if passes(error):
        return OSError(errno.EIO, _what_passes(error) + _times(tries))
    return of_bucket(error, where, tries)


def of_bucket(error: Exception, where: Where, tries: int) -> SourceError:
    """What a failed request for the whole is called."""
    code = code_of(error)
    if code in _DENIED:
        return _denied(where)
    known = _CODES.get(code) or next((_KINDS[kind] for kind in _kinds(error) if kind in _KINDS), None)
    if known is None and any(kind in _SIGN_IN for kind in _kinds(error)):
        known = "you aren't signed in any more", "sign in again, for instance with `aws sso login`"
    if known is None and isinstance(error, ValueError):  # how botocore refuses an address
        known = _KINDS["InvalidEndpointError"]
    if known is None and passes(error):
        known = _what_passes(error) + _times(tries), "try again later, or check the network and s3_endpoint"
    what, hint = known or (f"the server refuses ({said(error)})", "check s3_url and s3_endpoint")
    return SourceError(f"{where}: {what}", hint)


def code_of(error: BaseException) -> str:
    """The code of an answer that is an error, such as NoSuchKey; "" for anything else."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def said(error: BaseException) -> str:
    """The error's own words, short, on one line and without secrets."""
    text = " ".join((str(error) or type(error).__name__).split())
    return shown(redact(text))[:200]


def _denied(where: Where) -> SourceError:
    if where.unsigned:
        message = f"{where}: no AWS credentials were found, and the bucket isn't open to everyone"
        return SourceError(message, SET_CREDENTIALS)
    hint = "they need s3:ListBucket for the bucket and s3:GetObject for what is in it; AWS_PROFILE chooses others"
    return SourceError(f"{where}: access is denied to these credentials", hint)


def _what_passes(error: BaseException) -> str:
    if isinstance(error, asyncio.TimeoutError) or any(kind in _SLOW for kind in _kinds(error)):
        return "the server didn't answer in time"
    if code_of(error):
        return f"the server was busy or failed ({code_of(error)})"
    if any(kind in {"EndpointConnectionError", "ConnectTimeoutError"} for kind in _kinds(error)):
        return "the server couldn't be reached"
    return "the connection was cut off"


def _times(tries: int) -> str:
    return f", {tries} times in a row" if tries > 1 else ""


def _kinds(error: BaseException) -> list[str]:
    return [kind.__name__ for kind in type(error).__mro__]


def _status(error: BaseException) -> int:
    response = getattr(error, "response", None) or {}
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
