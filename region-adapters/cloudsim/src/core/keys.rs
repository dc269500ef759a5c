//! The keys that accounts' calls are signed with: the scenario's, and those that the control API adds and revokes.

use super::fault::FieldError;
use super::types::Vendor;
use super::world::World;
use crate::scenario::AccountConfig;

/// Keys of one account; the vendors themselves allow two to five.
const KEYS_MAX: usize = 5;

/// A key of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountKey {
    /// The cloud it opens.
    pub vendor: Vendor,
    /// Whose it is.
    pub account: String,
    /// Secret id or access key id.
    pub id: String,
    /// The secret.
    pub secret: String,
    /// If set, every request must carry it (temporary credentials).
    pub token: Option<String>,
}

impl AccountKey {
    pub(super) fn of(account: &AccountConfig) -> Self {
        Self {
            vendor: account.vendor,
            account: account.name.clone(),
            id: account.key_id.clone(),
            secret: account.key_secret.clone(),
            token: account.security_token.clone(),
        }
    }
}

impl World {
    /// The key of an id, if its account may call this region.
    #[must_use]
    pub fn key(&self, vendor: Vendor, region: &str, id: &str) -> Option<&AccountKey> {
        let accounts = &self.region(vendor, region)?.config.accounts;
        self.keys.iter().find(|key| key.vendor == vendor && key.id == id && accounts.contains(&key.account))
    }

    /// Gives an account one more key.
    ///
    /// # Errors
    /// `account` if there is none of that name, `keyId` if the id is taken or the account has keys enough, `keySecret` if it
    /// is empty.
    pub fn add_key(&mut self, account: &str, id: &str, secret: &str, token: Option<&str>) -> Result<(), FieldError> {
        let Some(vendor) = self.quotas.keys().find(|scope| scope.account == account).map(|scope| scope.vendor) else {
            return Err(FieldError::new("account", "an account of a region"));
        };
        let is_taken = self.keys.iter().any(|key| key.vendor == vendor && key.id == id);
        let is_full = self.keys.iter().filter(|key| key.account == account).count() >= KEYS_MAX;
        if id.is_empty() || is_taken || is_full {
            return Err(FieldError::new("keyId", format!("an id that is not in use; {KEYS_MAX} keys of an account")));
        }
        if secret.is_empty() {
            return Err(FieldError::new("keySecret", "a text that is not empty"));
        }
        let (account, id, secret) = (account.to_owned(), id.to_owned(), secret.to_owned());
        self.keys.push(AccountKey { vendor, account, id, secret, token: token.map(str::to_owned) });
        Ok(())
    }

    /// Takes a key from an account; false if it has none of that id.
    pub fn revoke_key(&mut self, account: &str, id: &str) -> bool {
        let before = self.keys.len();
        self.keys.retain(|key| key.account != account || key.id != id);
        self.keys.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    #[test]
    fn an_account_has_keys_that_come_and_go() {
        let scenario = Scenario::demo(1);
        let mut world = World::new(&scenario);
        let (account, first) = (scenario.accounts[0].name.clone(), scenario.accounts[0].key_id.clone());
        let opens = |world: &World, id: &str| world.key(Vendor::TencentEksci, "ap-guangzhou", id).is_some();
        assert!(opens(&world, &first));
        world.add_key(&account, "second", "s", None).unwrap();
        for (account, id, secret, field) in [
            ("nobody", "x", "s", "account"),
            (account.as_str(), "second", "s", "keyId"),
            (account.as_str(), "", "s", "keyId"),
            (account.as_str(), "x", "", "keySecret"),
        ] {
            assert_eq!(world.add_key(account, id, secret, None).unwrap_err().field, field);
        }
        assert!(opens(&world, &first) && opens(&world, "second"), "both open at the same time");
        assert!(world.key(Vendor::AlibabaEci, "cn-hangzhou", "second").is_none());
        assert!(world.revoke_key(&account, &first) && !world.revoke_key(&account, &first));
        assert!(!opens(&world, &first) && opens(&world, "second"));
        for n in 1..KEYS_MAX {
            world.add_key(&account, &format!("k{n}"), "s", None).unwrap();
        }
        assert_eq!(world.add_key(&account, "more", "s", None).unwrap_err().field, "keyId");
    }
}
