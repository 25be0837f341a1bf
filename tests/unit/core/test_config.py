from pathlib import Path

import pytest
from pydantic import ValidationError

from prsm.core.config import SECRETS, Settings, load_settings, mask_url
from prsm.core.errors import ConfigError

HOME = {"PRSM_HOME": "/nowhere/prsm"}


def refusal(env: dict[str, str] | None = None, flags: dict[str, object] | None = None, file: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(HOME | (env or {}), flags or {}, file)
    return caught.value.message


def test_defaults_are_valid_and_absolute() -> None:
    loaded = load_settings({}, {"home": "relative"})
    assert loaded.settings.port == 8420
    assert loaded.settings.home == Path("relative").absolute()
    assert loaded.provenance["port"] == "default"
    assert loaded.provenance["home"] == "flag --home"
    assert Settings().home == Path("~/.prsm").expanduser()


def test_every_setting_has_a_meaning_and_a_limit() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert isinstance(field.json_schema_extra, dict), name
        assert field.json_schema_extra["must_be"], name


def test_later_sources_win(tmp_path: Path) -> None:
    (tmp_path / "prsm.toml").write_text('port = 1001\nworkers = 2\nlog_level = "debug"\nteacher_enabled = false\n')
    env = {"PRSM_HOME": str(tmp_path), "PRSM_PORT": "1002", "PRSM_WORKERS": "3", "PRSM_TEST_ANYTHING": "x", "PATH": "y"}
    loaded = load_settings(env, {"port": 1003, "workers": None})
    s = loaded.settings
    assert (s.port, s.workers, s.log_level, s.teacher_enabled) == (1003, 3, "debug", False)
    assert loaded.provenance["port"] == "flag --port"
    assert loaded.provenance["workers"] == "environment PRSM_WORKERS"
    assert loaded.provenance["log_level"] == f"file {tmp_path / 'prsm.toml'}"
    assert loaded.provenance["host"] == "default"


def test_the_file_may_be_named(tmp_path: Path) -> None:
    named = tmp_path / "other.toml"
    named.write_text("port = 1001")
    assert load_settings(HOME | {"PRSM_CONFIG": str(named)}, {}).settings.port == 1001
    assert load_settings(HOME, {}, named).settings.port == 1001


def test_a_named_file_must_exist_and_be_toml(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(file=tmp_path / "absent.toml")
    assert "cannot be read" in refusal({"PRSM_CONFIG": str(tmp_path / "absent.toml")})
    (tmp_path / "bad.toml").write_text("port = = 1")
    assert "not valid TOML" in refusal(file=tmp_path / "bad.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    assert "not valid TOML" in refusal(file=tmp_path / "bytes.toml")


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("PRSM_PROT", "Did you mean PRSM_PORT?"),
        ("PRSM_DATABSE_URL", "Did you mean PRSM_DATABASE_URL?"),
        ("PRSM_port", "Did you mean PRSM_PORT?"),
        ("PRSM_Port", "Did you mean PRSM_PORT?"),
        ("PRSM_", ""),
        ("PRSM_ZZZZZZ", ""),
    ],
)
def test_unknown_environment_is_named(key: str, hint: str) -> None:
    message = refusal({key: "1"})
    assert f"There is no setting {key} (environment {key})." in message
    assert hint in message
    assert ("Did you mean" in message) == bool(hint)


def test_unknown_file_and_flag_settings_are_named_all_at_once(tmp_path: Path) -> None:
    path = tmp_path / "prsm.toml"
    path.write_text("wrokers = 1\n[database]\nurl = 'x'\n")
    message = refusal(file=path, flags={"prt": 1})
    assert f"There is no setting wrokers (file {path}). Did you mean workers?" in message
    assert "There is no setting database" in message
    assert "There is no setting prt (flag --prt). Did you mean port?" in message


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        (
            {"PRSM_PORT": "99999"},
            "The setting port is '99999' (environment PRSM_PORT); it must be a whole number from 1 to 65535.",
        ),
        ({"PRSM_WORKERS": "0"}, "a whole number from 1 to 64"),
        ({"PRSM_WORKERS": "two"}, "a whole number from 1 to 64"),
        ({"PRSM_WORKERS": ""}, "a whole number from 1 to 64"),
        ({"PRSM_WORKERS": "9" * 5000}, "a whole number from 1 to 64"),
        ({"PRSM_LOG_LEVEL": "loud"}, "it must be debug, info, warning or error."),
        ({"PRSM_TEACHER_ENABLED": "maybe"}, "it must be true or false."),
        ({"PRSM_DATABASE_URL": "mysql://u:hunter2@h/d"}, "it must be empty or a postgresql:// address."),
        ({"PRSM_REDIS_URL": "localhost:6379"}, "it must be empty or a redis://"),
        ({"PRSM_HOST": "a b"}, "it must be an address or host name."),
        ({"PRSM_HOST": "[::1]"}, "it must be an address or host name."),
        ({"PRSM_HOST": "name:80"}, "it must be an address or host name."),
        ({"PRSM_HOST": "me@name"}, "it must be an address or host name."),
        ({"PRSM_API_KEY": "prsm_\u20ac"}, "it must be empty or an API key."),
        ({"PRSM_HOME": ""}, "it must be the path of a folder"),
        ({"PRSM_HOME": "~nobody-of-this-name/x"}, "it must be the path of a folder"),
    ],
)
def test_wrong_values_are_refused_by_name_source_and_limit(env: dict[str, str], sentence: str) -> None:
    message = refusal(env)
    assert sentence in message
    assert next(iter(env)) in message
    assert "hunter2" not in message
    assert len(message) < 500


def test_file_values_of_the_wrong_type_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "prsm.toml"
    path.write_text("port = true\n")
    assert "The setting port is 'true'" in refusal(file=path)
    path.write_text("workers = 1.5\n")
    assert "The setting workers is '1.5'" in refusal(file=path)
    path.write_text("[host]\na = 1\n")
    assert "The setting host is" in refusal(file=path)


def test_two_wrong_values_give_two_sentences() -> None:
    assert refusal({"PRSM_PORT": "0", "PRSM_WORKERS": "0"}).count("\n") == 1


def test_a_hold_outlives_its_request() -> None:
    message = refusal({"PRSM_REQUEST_TIMEOUT_S": "840"})
    assert message == (
        "hold_ttl_s must be more than request_timeout_s + 60, or a hold could expire under a request; "
        "now hold_ttl_s is 900 (default) and request_timeout_s is 840 (environment PRSM_REQUEST_TIMEOUT_S)."
    )
    assert load_settings(HOME | {"PRSM_REQUEST_TIMEOUT_S": "839"}, {}).settings.request_timeout_s == 839


def test_splits_add_up_and_batches_fit() -> None:
    assert "must add up to 10000" in refusal({"PRSM_SPLIT_OWNER_BPS": "7001"})
    fine = HOME | {"PRSM_SPLIT_OWNER_BPS": "8000", "PRSM_SPLIT_EXECUTOR_BPS": "1000"}
    assert load_settings(fine, {}).settings.split_owner_bps == 8000
    assert "ledger_batch_max must not be more" in refusal({"PRSM_LEDGER_QUEUE_MAX": "999"})


def test_rules_bind_however_settings_are_built() -> None:
    with pytest.raises(ValidationError):
        Settings(hold_ttl_s=1)
    with pytest.raises(ValidationError):
        Settings().port = 1


def test_describe_masks_passwords_and_tells_sources() -> None:
    env = HOME | {"PRSM_DATABASE_URL": "postgresql://me:s3cr3t@db/prsm", "PRSM_REDIS_URL": "redis://:s3cr3t@cache:6379"}
    loaded = load_settings(env, {})
    rows = {row.name: row for row in loaded.describe()}
    assert list(rows) == list(Settings.model_fields)
    assert rows["database_url"].value == "postgresql://me:***@db/prsm"
    assert rows["database_url"].source == "environment PRSM_DATABASE_URL"
    assert rows["teacher_enabled"].value == "true"
    assert all("s3cr3t" not in part for row in rows.values() for part in row)
    assert "s3cr3t" not in repr(loaded)
    assert set(rows) >= SECRETS


def test_no_address_shows_its_password() -> None:
    env = HOME | {f"PRSM_{name}_ENDPOINT": "https://me:s3cr3t@there.example/x" for name in ("OTLP", "HUB")}
    rows = {row.name: row.value for row in load_settings(env, {}).describe()}
    assert rows["otlp_endpoint"] == rows["hub_endpoint"] == "https://me:***@there.example/x"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("", ""),
        ("postgresql://db/prsm", "postgresql://db/prsm"),
        ("postgresql://me@db/prsm", "postgresql://me@db/prsm"),
        ("postgresql://me:p@ss/w:rd@db/prsm", "postgresql://me:***@db/prsm"),
        ("postgresql://db/prsm?user=me&password=pw&sslmode=require", "postgresql://db/prsm?user=me&password=***&sslmode=require"),
        ("redis://:pw@h:6379/0", "redis://:***@h:6379/0"),
        ("https://TOKEN@gateway/ipfs", "https://***@gateway/ipfs"),
        ("https://a@x, https://b@y", "https://***@x, https://***@y"),
        ("https://gateway/@ipfs", "https://gateway/@ipfs"),
    ],
)  # fmt: skip
def test_mask(url: str, shown: str) -> None:
    assert mask_url(url) == shown


@pytest.mark.parametrize("name", ["banned_file", "storage_peers_file", "teachers_folder", "alert_smtp_ca_file"])
def test_a_path_of_somebody_without_a_home_is_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=f"The setting {name} is '~nobody-of-this-name/x'"):
        load_settings(HOME | {f"PRSM_{name.upper()}": "~nobody-of-this-name/x"}, {})


def test_a_settings_file_of_somebody_without_a_home_is_refused() -> None:
    with pytest.raises(ConfigError, match="The settings file ~nobody-of-this-name/x"):
        load_settings(HOME | {"PRSM_CONFIG": "~nobody-of-this-name/x"}, {})


def test_a_path_in_the_home_is_known_by_its_whole_name() -> None:
    loaded = load_settings(HOME | {"PRSM_BANNED_FILE": "~/banned.toml"}, {})
    assert loaded.settings.banned_file == str(Path.home() / "banned.toml")


def test_a_list_is_written_with_commas_or_as_a_list(tmp_path: Path) -> None:
    env = {"PRSM_STORAGE_NODES": "http://u:hunter2@a:5001, https://b", "PRSM_STORAGE_PRIVATE_HOSTS": "a:1 [::1]:2"}
    loaded = load_settings(HOME | env, {})
    assert loaded.settings.storage_nodes == ("http://u:hunter2@a:5001", "https://b")
    assert loaded.settings.storage_private_hosts == ("a:1", "[::1]:2")
    assert loaded.settings.storage_gateways == ()
    shown = {row.name: row.value for row in loaded.describe()}
    assert shown["storage_nodes"] == "http://u:***@a:5001, https://b"
    path = tmp_path / "prsm.toml"
    path.write_text('storage_gateways = ["https://one", "https://two"]')
    assert load_settings(HOME, {}, path).settings.storage_gateways == ("https://one", "https://two")
    assert load_settings(HOME | {"PRSM_STORAGE_GATEWAYS": ""}, {}, path).settings.storage_gateways == ()


@pytest.mark.parametrize(
    "env",
    [
        {"PRSM_STORAGE_NODES": "ftp://u:hunter2@a"},
        {"PRSM_STORAGE_GATEWAYS": "https://ok, nonsense"},
        {"PRSM_STORAGE_PRIVATE_HOSTS": "127.0.0.1"},
        {"PRSM_STORAGE_PROFILE": "mine"},
    ],
)
def test_a_wrong_item_of_a_list_is_refused(env: dict[str, str]) -> None:
    message = refusal(env)
    assert next(iter(env)) in message
    assert "hunter2" not in message


def test_who_is_to_be_told_must_be_reachable_and_no_secret_of_it_is_shown() -> None:
    said = refusal({"PRSM_ALERT_WEBHOOK_URL": "https://hooks.example/T0/s3cr3t"})
    assert "alert_webhook_secret" in said
    assert "s3cr3t" not in said
    assert "alert_smtp_host" in refusal({"PRSM_ALERT_MAIL_TO": "a@b.example"})
    assert "alert_mail_to" in refusal({"PRSM_ALERT_MAIL_TO": "not an address"})
    secrets = {
        "PRSM_ALERT_WEBHOOK_URL": "https://hooks.example/T0/s3cr3t", "PRSM_ALERT_WEBHOOK_SECRET": "s3cr3t",
        "PRSM_ALERT_SMTP_PASSWORD": "s3cr3t", "PRSM_OTLP_HEADERS": "key=s3cr3t",
    }  # fmt: skip
    loaded = load_settings(HOME | secrets | {"PRSM_ALERT_MAIL_TO": ""}, {})
    assert "s3cr3t" not in str(loaded.describe())
    assert loaded.settings.alert_mail_to == ()
