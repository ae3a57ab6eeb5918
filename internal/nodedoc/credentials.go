package nodedoc

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
)

// Roles of API principals and operators, from least to most.
const (
	RoleReader    = "reader"
	RoleFramework = "framework"
	RoleOperator  = "operator"
	RoleAdmin     = "admin"
)

// APICredential is one principal of the API with the hash of its secret.
type APICredential struct {
	Principal  string `json:"principal"`
	SecretHash string `json:"secretHash"`
	Role       string `json:"role"` // one of the roles above
}

// APICredentials are all principals of the API.
type APICredentials []APICredential

// IssuerSecrets is what only a master's boot medium carries.
type IssuerSecrets struct {
	IssuingKeyPEM  string         `json:"issuingKeyPEM"`
	IssuingCertPEM string         `json:"issuingCertPEM"`
	CAPEM          string         `json:"caPEM"`
	APICredentials APICredentials `json:"apiCredentials"`
}

// Bounds of credentials. The secrets that lith makes are random and 160 bits long, so
// that the number of rounds is for those that people choose.
const (
	hashScheme     = "pbkdf2-sha256"
	hashRounds     = 20_000
	maxHashRounds  = 1_000_000
	hashBytes      = 32
	maxCredentials = 1000
	maxPrincipal   = 255
	maxSecret      = 1024
)

// HashSecret gives the salted hash of an API secret as credentials hold it.
func HashSecret(secret string) (string, error) {
	if secret == "" || len(secret) > maxSecret {
		return "", fmt.Errorf("a secret has 1 to %d bytes, not %d", maxSecret, len(secret))
	}
	salt := make([]byte, 16)
	if _, err := rand.Read(salt); err != nil {
		return "", fmt.Errorf("make salt: %w", err)
	}
	key, err := pbkdf2.Key(sha256.New, secret, salt, hashRounds, hashBytes)
	if err != nil {
		return "", fmt.Errorf("hash secret: %w", err)
	}
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("%s$%d$%s$%s", hashScheme, hashRounds, b64.EncodeToString(salt), b64.EncodeToString(key)), nil
}

type secretHash struct {
	rounds    int
	salt, key []byte
}

func parseHash(text string) (secretHash, error) {
	parts := strings.Split(text, "$")
	if len(parts) != 4 || parts[0] != hashScheme {
		return secretHash{}, fmt.Errorf("secret hash is not of the form %s$ROUNDS$SALT$KEY", hashScheme)
	}
	rounds, err := strconv.Atoi(parts[1])
	if err != nil || rounds < 1 || rounds > maxHashRounds {
		return secretHash{}, fmt.Errorf("secret hash has %.20q rounds, not 1 to %d", parts[1], maxHashRounds)
	}
	salt, err := base64.RawStdEncoding.DecodeString(parts[2])
	if err != nil || len(salt) < 8 || len(salt) > 64 {
		return secretHash{}, errors.New("salt of the secret hash is not 8 to 64 bytes of base64")
	}
	key, err := base64.RawStdEncoding.DecodeString(parts[3])
	if err != nil || len(key) != hashBytes {
		return secretHash{}, fmt.Errorf("key of the secret hash is not %d bytes of base64", hashBytes)
	}
	return secretHash{rounds: rounds, salt: salt, key: key}, nil
}

// Validate verifies the form of all credentials; a principal may appear once.
func (c APICredentials) Validate() error {
	if len(c) > maxCredentials {
		return fmt.Errorf("%d API credentials, at most %d are allowed", len(c), maxCredentials)
	}
	seen := make(map[string]bool, len(c))
	for _, cred := range c {
		if cred.Principal == "" || len(cred.Principal) > maxPrincipal || strings.Contains(cred.Principal, ":") || seen[cred.Principal] {
			return fmt.Errorf("API principal %.80q is empty, too long, contains a colon or appears twice", cred.Principal)
		}
		seen[cred.Principal] = true
		switch cred.Role {
		case RoleReader, RoleFramework, RoleOperator, RoleAdmin:
		default:
			return fmt.Errorf("role %.80q of API principal %q is not reader, framework, operator or admin", cred.Role, cred.Principal)
		}
		if _, err := parseHash(cred.SecretHash); err != nil {
			return fmt.Errorf("API principal %q: %w", cred.Principal, err)
		}
	}
	return nil
}

// Check verifies a principal's secret and gives its role. An unknown principal costs the
// caller as much time as a wrong secret. Whoever asks often uses a Checker.
func (c APICredentials) Check(principal, secret string) (role string, ok bool) {
	hash := secretHash{rounds: hashRounds, salt: make([]byte, 16), key: make([]byte, hashBytes)}
	known := false
	for _, cred := range c {
		if cred.Principal != principal {
			continue
		}
		parsed, err := parseHash(cred.SecretHash)
		if err == nil {
			hash, role, known = parsed, cred.Role, true
		}
	}
	if len(secret) > maxSecret {
		return "", false
	}
	key, err := pbkdf2.Key(sha256.New, secret, hash.salt, hash.rounds, hashBytes)
	if err != nil || subtle.ConstantTimeCompare(key, hash.key) != 1 || !known {
		return "", false
	}
	return role, true
}

// Checker answers Check for credentials that were right before without hashing again.
// It remembers one keyed digest a principal, never a secret. Its methods may be called
// from any goroutine.
type Checker struct {
	creds APICredentials
	key   [32]byte

	mu    sync.Mutex
	known map[string]remembered // by principal; at most one entry for each of creds
}

type remembered struct {
	digest [sha256.Size]byte
	role   string
}

// NewChecker verifies the credentials' form and wraps them.
func NewChecker(creds APICredentials) (*Checker, error) {
	if err := creds.Validate(); err != nil {
		return nil, err
	}
	c := &Checker{creds: creds, known: make(map[string]remembered)}
	if _, err := rand.Read(c.key[:]); err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	return c, nil
}

// Check is APICredentials.Check.
func (c *Checker) Check(principal, secret string) (role string, ok bool) {
	if len(secret) > maxSecret {
		return "", false
	}
	mac := hmac.New(sha256.New, c.key[:])
	mac.Write([]byte(secret))
	var digest [sha256.Size]byte
	mac.Sum(digest[:0])

	c.mu.Lock()
	was, have := c.known[principal]
	c.mu.Unlock()
	if have && subtle.ConstantTimeCompare(was.digest[:], digest[:]) == 1 {
		return was.role, true
	}
	role, ok = c.creds.Check(principal, secret)
	if ok {
		c.mu.Lock()
		c.known[principal] = remembered{digest: digest, role: role}
		c.mu.Unlock()
	}
	return role, ok
}

// Encode gives the secrets as JSON.
func (s IssuerSecrets) Encode() ([]byte, error) {
	if err := s.APICredentials.Validate(); err != nil {
		return nil, err
	}
	raw, err := canonical(s)
	if err != nil {
		return nil, err
	}
	if len(raw) > MaxIssuerSecrets {
		return nil, fmt.Errorf("issuer secrets of %d bytes: %w (%d)", len(raw), ErrTooLong, MaxIssuerSecrets)
	}
	return raw, nil
}

// ParseIssuerSecrets decodes what a master's medium carries as issuer.json. Keys and
// certificates in it are parsed by whoever opens the issuer.
func ParseIssuerSecrets(raw []byte) (IssuerSecrets, error) {
	if len(raw) > MaxIssuerSecrets {
		return IssuerSecrets{}, fmt.Errorf("issuer secrets of %d bytes: %w (%d)", len(raw), ErrTooLong, MaxIssuerSecrets)
	}
	var s IssuerSecrets
	if err := decodeStrict(raw, &s); err != nil {
		return IssuerSecrets{}, fmt.Errorf("issuer secrets: %w", err)
	}
	if err := s.APICredentials.Validate(); err != nil {
		return IssuerSecrets{}, fmt.Errorf("issuer secrets: %w", err)
	}
	return s, nil
}
