"""Sends a mail when a service moves: by default to root, through the mail server of this host.

    "90_mail" = { use = "email", to = "admin@example.org", host = "mail.example.org", tls = "starttls" }

Nobody waits for it: a mail server that hangs keeps no service from its next holder.
"""

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

BESIDE = True

Phase = Literal["PreAcq", "PostAcq", "PreRel", "PostRel"]
VERBS = {"PreAcq": "is taking it", "PostAcq": "has taken it", "PreRel": "is giving it up", "PostRel": "has given it up"}
PORTS = {"none": 25, "starttls": 587, "tls": 465}
ANSWER_SECONDS = 20.0
OTHERS_MAY = 0o077


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    to: str | list[str] = "root"
    sender: str = ""
    """Default: locum@ this host."""
    host: str = "localhost"
    port: int | None = None
    """Default: 25, with starttls 587, with tls 465."""
    tls: Literal["none", "starttls", "tls"] = "none"
    user: str = ""
    password_file: str = ""
    """A file with the password, which others must not be able to read."""
    phases: list[Phase] | None = None
    """Default: PostAcq and PostRel."""

    def __post_init__(self) -> None:
        if not self.recipients or any(not one.strip() or not one.isprintable() for one in self.recipients):
            raise ValueError("to: must name somebody")
        if bool(self.user) != bool(self.password_file):
            raise ValueError("password_file: goes with user, and user with it")
        if self.user and self.tls == "none":
            raise ValueError('tls: a password is not sent in the clear: make it "starttls" or "tls"')

    @property
    def recipients(self) -> list[str]:
        return [self.to] if isinstance(self.to, str) else self.to


def phases(parameters: Parameters) -> list[str]:
    return list(parameters.phases or ("PostAcq", "PostRel"))


def problems(parameters: Parameters) -> list[str]:
    return (
        [unreadable(parameters.password_file)]
        if parameters.password_file and unreadable(parameters.password_file)
        else []
    )


def unreadable(path: str) -> str:
    """Why the password in the file cannot be used; "" if it can."""
    try:
        if Path(path).stat().st_mode & OTHERS_MAY:
            return f"{path} can be read by others: chmod 600 it"
        Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        return f"{path} cannot be read: {error}"
    return ""


def password_of(parameters: Parameters) -> str | None:
    return Path(parameters.password_file).read_text().strip() if parameters.password_file else None


def subject(context: Any) -> str:
    return f"{context.service}: {context.node} {VERBS[context.phase]} ({context.reason})"


def body(context: Any) -> str:
    before = "from" if context.phase.endswith("Acq") else "for"
    lines = {
        "service": context.service,
        "node": context.node,
        "what": VERBS[context.phase],
        before: context.peer or "nobody that is known",
        "reason": context.reason,
        "addresses": ", ".join(context.addresses),
        "interface": context.interface,
        "epoch": str(context.epoch),
    }
    return "".join(f"{name:10} {value}\n" for name, value in lines.items())


async def hook(context: Any) -> bool:
    from email.message import EmailMessage
    from email.utils import formatdate, make_msgid

    import aiosmtplib

    parameters: Parameters = context.parameters
    here = socket.getfqdn()
    message = EmailMessage()
    message["From"] = parameters.sender or f"locum@{here}"
    message["To"] = ", ".join(parameters.recipients)
    message["Subject"] = subject(context)
    message["Date"] = formatdate(localtime=True)
    message["Message-ID"] = make_msgid(domain=here)
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's holiday message answers it
    message.set_content(body(context))
    trouble = unreadable(parameters.password_file) if parameters.password_file else ""
    if trouble:
        print(trouble)
        return False
    port = parameters.port or PORTS[parameters.tls]
    try:
        await aiosmtplib.send(
            message,
            hostname=parameters.host,
            port=port,
            use_tls=parameters.tls == "tls",
            start_tls=parameters.tls == "starttls",
            username=parameters.user or None,
            password=password_of(parameters),
            timeout=ANSWER_SECONDS,
        )
    except (aiosmtplib.SMTPException, OSError) as error:
        print(f"{parameters.host}:{port} did not take the mail: {error}")
        return False
    return True
