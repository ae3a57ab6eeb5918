package nodedoc

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Errors that a reader of documents tells apart.
var (
	ErrTooLong      = errors.New("longer than allowed")
	ErrSignature    = errors.New("not signed by this cluster's owner")
	ErrNotCanonical = errors.New("not in canonical form")
	ErrOtherCluster = errors.New("belongs to another cluster")
	ErrFormat       = errors.New("unknown format")
)

// Signed is the envelope of a document. The payload is the document itself, so that a
// person can read it; white space around its parts may change, nothing else.
type Signed struct {
	Payload   json.RawMessage `json:"payload"`
	Signature []byte          `json:"signature"`
	// KeyID names the signing key: the first 8 bytes of its SHA-256, in hex.
	KeyID string `json:"keyID"`
}

// The signature covers one of these and the payload, so that one kind of document can
// never pass for another.
const (
	nodeContext    = "mesolith node document 1\n"
	clusterContext = "mesolith cluster document 1\n"
)

// KeyID names an owner's public key in envelopes and messages.
func KeyID(key ed25519.PublicKey) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:8])
}

// Seal checks, encodes and signs a node document.
func Seal(doc Document, owner ed25519.PrivateKey) ([]byte, error) {
	if err := doc.Check(); err != nil {
		return nil, fmt.Errorf("node document of %q: %w", doc.Name, err)
	}
	raw, err := seal(nodeContext, doc, owner)
	if err != nil {
		return nil, err
	}
	if len(raw) > MaxNodeDocument {
		return nil, fmt.Errorf("node document of %q is %d bytes: %w (%d)", doc.Name, len(raw), ErrTooLong, MaxNodeDocument)
	}
	return raw, nil
}

// Open verifies and decodes a node document.
func Open(raw []byte, a Anchor) (Document, error) {
	var doc Document
	if len(raw) > MaxNodeDocument {
		return Document{}, fmt.Errorf("node document of %d bytes: %w (%d)", len(raw), ErrTooLong, MaxNodeDocument)
	}
	if err := open(nodeContext, raw, a, &doc); err != nil {
		return Document{}, fmt.Errorf("node document: %w", err)
	}
	if err := sameCluster(a, doc.Cluster, doc.ClusterID); err != nil {
		return Document{}, fmt.Errorf("node document: %w", err)
	}
	if err := doc.Check(); err != nil {
		return Document{}, fmt.Errorf("node document of %q: %w", doc.Name, err)
	}
	return doc, nil
}

// SealCluster checks, encodes and signs a cluster document. The second result is the
// hash that node documents carry.
func SealCluster(doc ClusterDocument, owner ed25519.PrivateKey) (raw []byte, hash string, err error) {
	if err := doc.Check(); err != nil {
		return nil, "", fmt.Errorf("cluster document: %w", err)
	}
	raw, err = seal(clusterContext, doc, owner)
	if err != nil {
		return nil, "", err
	}
	if len(raw) > MaxClusterDocument {
		return nil, "", fmt.Errorf("cluster document of %d bytes: %w (%d)", len(raw), ErrTooLong, MaxClusterDocument)
	}
	hash, err = Hash(doc)
	return raw, hash, err
}

// OpenCluster verifies and decodes a cluster document.
func OpenCluster(raw []byte, a Anchor) (ClusterDocument, error) {
	var doc ClusterDocument
	if len(raw) > MaxClusterDocument {
		return ClusterDocument{}, fmt.Errorf("cluster document of %d bytes: %w (%d)", len(raw), ErrTooLong, MaxClusterDocument)
	}
	if err := open(clusterContext, raw, a, &doc); err != nil {
		return ClusterDocument{}, fmt.Errorf("cluster document: %w", err)
	}
	if err := sameCluster(a, doc.Cluster, doc.ClusterID); err != nil {
		return ClusterDocument{}, fmt.Errorf("cluster document: %w", err)
	}
	if err := doc.Check(); err != nil {
		return ClusterDocument{}, fmt.Errorf("cluster document: %w", err)
	}
	return doc, nil
}

// Hash is the SHA-256 of a cluster document's canonical form, in lower-case hex.
func Hash(doc ClusterDocument) (string, error) {
	payload, err := canonical(doc)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(payload)
	return hex.EncodeToString(sum[:]), nil
}

// Encode gives an anchor as one line of JSON.
func (a Anchor) Encode() ([]byte, error) {
	if err := a.Check(); err != nil {
		return nil, fmt.Errorf("anchor: %w", err)
	}
	return canonical(a)
}

// Inline gives an anchor as the kernel line's mesolith.anchor= takes it.
func (a Anchor) Inline() (string, error) {
	raw, err := a.Encode()
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(raw), nil
}

// ParseAnchor decodes and checks an anchor.
func ParseAnchor(raw []byte) (Anchor, error) {
	if len(raw) > MaxAnchor {
		return Anchor{}, fmt.Errorf("anchor of %d bytes: %w (%d)", len(raw), ErrTooLong, MaxAnchor)
	}
	var a Anchor
	if err := decodeStrict(raw, &a); err != nil {
		return Anchor{}, fmt.Errorf("anchor: %w", err)
	}
	if err := a.Check(); err != nil {
		return Anchor{}, fmt.Errorf("anchor: %w", err)
	}
	return a, nil
}

// ParseInlineAnchor decodes the value of mesolith.anchor= of the kernel line.
func ParseInlineAnchor(text string) (Anchor, error) {
	if len(text) > base64.RawURLEncoding.EncodedLen(MaxAnchor) {
		return Anchor{}, fmt.Errorf("inline anchor of %d characters: %w (%d bytes)", len(text), ErrTooLong, MaxAnchor)
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return Anchor{}, fmt.Errorf("inline anchor: %w", err)
	}
	return ParseAnchor(raw)
}

func seal(context string, doc any, owner ed25519.PrivateKey) ([]byte, error) {
	if len(owner) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("sign document: the owner's key has %d bytes, not %d", len(owner), ed25519.PrivateKeySize)
	}
	payload, err := canonical(doc)
	if err != nil {
		return nil, err
	}
	return canonical(Signed{
		Payload:   payload,
		Signature: ed25519.Sign(owner, append([]byte(context), payload...)),
		KeyID:     KeyID(owner.Public().(ed25519.PublicKey)),
	})
}

func open(context string, raw []byte, a Anchor, doc any) error {
	if err := a.Check(); err != nil {
		return fmt.Errorf("anchor: %w", err)
	}
	var s Signed
	if err := decodeStrict(raw, &s); err != nil {
		return fmt.Errorf("envelope: %w", err)
	}
	var payload bytes.Buffer
	if err := json.Compact(&payload, s.Payload); err != nil {
		return fmt.Errorf("payload: %w", err)
	}
	if !ed25519.Verify(a.OwnerKey, append([]byte(context), payload.Bytes()...), s.Signature) {
		return fmt.Errorf("%w: key %.16q, the owner's is %q", ErrSignature, s.KeyID, KeyID(a.OwnerKey))
	}
	if err := decodeStrict(payload.Bytes(), doc); err != nil {
		return fmt.Errorf("payload: %w", err)
	}
	again, err := canonical(doc)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, payload.Bytes()) {
		return ErrNotCanonical
	}
	return nil
}

// canonical encodes without white space, struct fields in the order of their type, map
// keys sorted, and no escapes that JSON does not ask for.
func canonical(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode document: %w", err)
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

// decodeStrict refuses unknown keys and anything after the value.
func decodeStrict(raw []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the end of the document")
	}
	return nil
}

func sameCluster(a Anchor, name, id string) error {
	if a.ClusterID != id || a.Cluster != name {
		return fmt.Errorf("%w: %q (%s), the anchor says %q (%s)", ErrOtherCluster, name, id, a.Cluster, a.ClusterID)
	}
	return nil
}
