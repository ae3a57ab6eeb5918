package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestAskMachine(t *testing.T) {
	mux := http.NewServeMux()
	answer := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if _, err := w.Write([]byte(text)); err != nil {
				t.Error(err)
			}
		}
	}
	mux.HandleFunc("GET /v1/dmesg", answer("<6>[0.000000] Linux\n"))
	mux.HandleFunc("GET /v1/health", answer(`{"name":"n1","kernel":"6.12"}`))
	mux.HandleFunc("GET /v1/services", answer(`[{"name":"clusterd","state":"running","pid":139}]`))
	mux.HandleFunc("GET /v1/memory", answer(`{"totalBytes":536870912,"availableBytes":314572800,"groups":[
		{"name":"clusterd","processes":1,"pssBytes":25165824,"anonymousBytes":16777216,"residentBytes":27262976}]}`))
	mux.HandleFunc("GET /v1/logs", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("program") != "clusterd" {
			w.WriteHeader(http.StatusNotFound)
			answer(`{"error":"no program of that name"}`)(w, r)
			return
		}
		answer("{}\n")(w, r)
	})
	rebooted := false
	mux.HandleFunc("POST /v1/reboot", func(w http.ResponseWriter, _ *http.Request) {
		rebooted = true
		w.WriteHeader(http.StatusAccepted)
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	tg := &target{name: "demo", dir: "x", http: http.DefaultClient, nodes: []targetNode{{stateNode: stateNode{Name: "n1"}, node: server.URL}}}
	base, err := tg.machine("n1")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		verb      []string
		out, fail string
	}{
		{[]string{"dmesg"}, "Linux", ""},
		{[]string{"health"}, `"kernel": "6.12"`, ""},
		{[]string{"logs", "clusterd"}, "{}", ""},
		{[]string{"logs", "nothing"}, "", "no program of that name"},
		{[]string{"reboot"}, "n1 reboots", ""},
		{[]string{"services"}, "clusterd  running  139", ""},
		{[]string{"memory"}, "clusterd  1          24.0 MiB  16.0 MiB   26.0 MiB", ""},
		{[]string{"memory"}, "300.0 MiB of 512.0 MiB are free", ""},
		{[]string{"dance"}, "", "is nothing that a node is asked"},
	} {
		var out strings.Builder
		err := tg.askMachine(t.Context(), &out, "n1", base, c.verb, nodeFlags{})
		if !strings.Contains(out.String(), c.out) || (err == nil) != (c.fail == "") || err != nil && !strings.Contains(err.Error(), c.fail) {
			t.Errorf("%v: %q, %v", c.verb, out.String(), err)
		}
	}
	if !rebooted {
		t.Error("the node was not asked to reboot")
	}
	if _, err := tg.machine("n2"); err == nil || !strings.Contains(err.Error(), "it has n1") {
		t.Errorf("an unknown node: %v", err)
	}
	server.Close()
	if err := tg.askMachine(t.Context(), &strings.Builder{}, "n1", base, []string{"dmesg"}, nodeFlags{}); err == nil || !strings.Contains(err.Error(), "console") {
		t.Errorf("a node that does not answer: %v", err)
	}
}
